"""ether: one observable, recorded system out of plain Python classes."""

__version__ = "0.1.0"
