"""Foreign: other conventions than ours. Devices that speak them are taken in, and our components are told of in them.

A file a convention. `rules` reads what a user writes in YAML; `ingest` and `bridge` are the processes.
"""
