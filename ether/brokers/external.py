"""A broker that somebody else runs."""

from __future__ import annotations

from ether.address import Address

__all__ = ["External"]


class External:
    """Only its address is ours; nothing is started or stopped."""

    kind = "external"
    temporary_folder = None

    def __init__(self, url: str, why: str = "given by its address") -> None:
        Address.parse(url)  # say what is wrong with it before anything starts
        self.url = url
        self.why = why

    def __enter__(self) -> External:
        return self

    def __exit__(self, *exc: object) -> None:
        return None
