"""The recorder: subscribe, journal, confirm (`ingest`); derive HDF5 (`writer`, `seal`); read back (`reader`, `verify`).

Importing this package loads none of them.
"""
