"""SenML (RFC 8428), in JSON: records with a name, a unit, a value and a time."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from ether import topics
from ether.errors import PayloadError
from ether.foreign.facts import our_unit

__all__ = ["Pack", "read"]

_RELATIVE = 2**28
"""Times below are relative to now (RFC 8428, section 4.5.3)."""
_VERSION = 10
_TYPES = {"v": "number", "vs": "string", "vb": "boolean", "vd": None}
_KNOWN = frozenset({"bn", "bt", "bu", "bv", "bs", "bver", "n", "u", "v", "vs", "vb", "vd", "s", "t", "ut"})


@dataclass(frozen=True, slots=True)
class Pack:
    """What was measured at one time."""

    time: float
    fields: dict[str, Any]
    schema: dict[str, dict[str, Any]]


def read(records: Any, now: float) -> list[Pack]:
    """Return the readings of a SenML pack, one for each time, in their order.

    A field is called by its record's own name; by the whole name where the pack has several base names.

    Raises:
        PayloadError: it is no SenML, or of a kind that must not be guessed at.
    """
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise PayloadError("no SenML: a list of records was wanted")
    base: dict[str, Any] = {}
    bases = {each["bn"] for each in records if "bn" in each}
    found: dict[float, Pack] = {}
    for record in records:
        if wanted := [key for key in record if key.endswith("_") and key not in _KNOWN]:
            raise PayloadError(f"SenML with {wanted[0]!r}, which must be understood and is not known here")
        base |= {key: record[key] for key in record if key in ("bn", "bt", "bu", "bv", "bs", "bver")}
        if not isinstance(base.get("bver", _VERSION), int) or base.get("bver", _VERSION) > _VERSION:
            raise PayloadError(f"SenML of version {base['bver']}; {_VERSION} is known here")
        own, whole = str(record.get("n", "")), f"{base.get('bn', '')}{record.get('n', '')}"
        if not whole:
            raise PayloadError("a SenML record without a name")
        when = _number(base, "bt") + _number(record, "t")
        when = now + when if when < _RELATIVE else when
        pack = found.setdefault(when, Pack(when, {}, {}))
        name = topics.slug(own if own and len(bases) < 2 else whole)
        if name in pack.fields:
            raise PayloadError(f"SenML says {whole!r} twice for one time")
        _add(pack, name, record, base)
    return list(found.values())


def _add(pack: Pack, name: str, record: dict[str, Any], base: dict[str, Any]) -> None:
    given = our_unit(record.get("u", base.get("bu")))
    unit = {"unit": given} if given else {}
    for key, kind in _TYPES.items():
        if key in record or (key == "v" and "bv" in base and not record.keys() & {"vs", "vb", "vd", "s"}):
            value = record.get(key)
            if key == "v":
                value = _number(base, "bv") + _number(record, "v")
            elif key == "vd":
                try:
                    value = base64.urlsafe_b64decode(str(value) + "==")
                except ValueError as exc:
                    raise PayloadError(f"SenML data that are no base64: {exc}") from None
            elif not isinstance(value, str if key == "vs" else bool):
                raise PayloadError(f"SenML: {key} of {name!r} is {value!r}")
            pack.fields[name] = value
            pack.schema[name] = {**({"type": kind} if kind else {}), **unit}
    if "s" in record or "bs" in base:
        pack.fields[f"{name}_sum"] = _number(base, "bs") + _number(record, "s")
        pack.schema[f"{name}_sum"] = {"type": "number", "description": "sum over time", **unit}


def _number(record: dict[str, Any], key: str) -> float:
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PayloadError(f"SenML: {key} is {value!r}, no number")
    return float(value)
