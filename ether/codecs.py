"""Reading <-> bytes: JSON, or CBOR where a value is an array or bytes (wire contract, sections 2 and 3)."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

import pydantic_core

from ether.errors import PayloadError
from ether.model import Envelope

__all__ = [
    "CBOR_MAGIC",
    "DTYPE_OF_TAG",
    "Signer",
    "decode",
    "encode",
    "envelope_of",
    "fields_of",
    "is_binary",
    "numbering",
    "parsed",
    "part",
    "plain",
    "readings_in",
    "to_json",
    "unpack",
    "with_envelope",
]

CBOR_MAGIC = b"\xd9\xd9\xf7"
"""RFC 8949 tag 55799, self-described CBOR: never valid UTF-8, so no text begins with it."""

_PLAIN = frozenset({int, float, str, bool, type(None)})
_ENVELOPE_KEYS = frozenset({"by", "b", "n", "t", "ms", "k", "dt", "replay"})
# RFC 8746 tag per dtype, little-endian (one byte has no order); big-endian arrays are swapped before they travel.
_TAG_OF_DTYPE = {
    "|u1": 64, "<u2": 69, "<u4": 70, "<u8": 71,
    "|i1": 72, "<i2": 77, "<i4": 78, "<i8": 79,
    "<f2": 84, "<f4": 85, "<f8": 86,
}  # fmt: skip
_CBOR_KEY = b"\x66_ether"
_MOST_READINGS = 10_000_000
DTYPE_OF_TAG = {tag: dtype for dtype, tag in _TAG_OF_DTYPE.items()} | {
    65: ">u2", 66: ">u4", 67: ">u8", 68: "|u1", 73: ">i2", 74: ">i4", 75: ">i8", 80: ">f2", 81: ">f4", 82: ">f8",
}  # fmt: skip
"""Tags of typed arrays (RFC 8746) that are decoded as NumPy arrays of these types."""
# Our encoders write `_ether` last, so the recorder finds it without parsing the message.
_TAIL = re.compile(
    rb'[{,]"_ether":\{"by":"([A-Za-z0-9_.-]+)","b":"([^"\\]*)","n":(\d+)(?:,"t":([\d.eE+-]+))?(?:,"ms":([\d.eE+-]+))?\}\}\Z'
)


def encode(value: Any, envelope: Envelope | None = None) -> bytes:
    """Return the payload of one result.

    Args:
        value: a dict, pydantic model or dataclass travels as its fields; None as no fields; anything else as the
            field ``value``. NaN and infinities travel as null in JSON.
        envelope: ether's own facts; None leaves them out, as a foreign client would.

    Raises:
        PayloadError: the value cannot travel, or has a field named ``_…``.
    """
    if is_binary(value):
        return _encode_cbor(value, envelope)
    body = _body(value)
    return body if envelope is None else _sealed(body, _envelope_json(envelope))


class Signer:
    """Encodes the readings of one publisher: `encode` with what never changes prepared."""

    def __init__(self, by: str, boot: str) -> None:
        self._by = by
        self._boot = boot
        self._head = b'{"by":"%s","b":"%s","n":' % (by.encode(), boot.encode())

    def encode(self, value: Any, number: int, t: float) -> bytes:
        """Return the payload of one result, numbered and stamped; raises what `encode` raises."""
        if is_binary(value):
            return _encode_cbor(value, Envelope(self._by, self._boot, number, t))
        return _sealed(_body(value), self._head + b'%d,"t":%a}' % (number, t))


def _body(value: Any) -> bytes:
    """Return the JSON object that a value travels as."""
    if value is None:
        return b"{}"
    body = to_json(value)
    if body[:1] != b"{":
        return b'{"value":' + body + b"}"
    if isinstance(value, dict):
        _check_keys(value)
    return body


def _sealed(body: bytes, envelope: bytes) -> bytes:
    """Return a JSON object with the envelope as its last member."""
    return body[:-1] + (b'"_ether":' if body == b"{}" else b',"_ether":') + envelope + b"}"


def with_envelope(payload: bytes, envelope: Envelope) -> bytes:
    """Return a payload under another envelope. Its fields stay as they are, byte for byte in a JSON object.

    What was no object becomes the field ``value``, as which it is received anyway.

    Raises:
        PayloadError: the payload says it is CBOR and is not.
    """
    if payload.startswith(CBOR_MAGIC):
        return _cbor_with_envelope(payload, envelope)
    text = payload.strip()
    if text[:1] == b"{":
        with contextlib.suppress(ValueError):  # no JSON: a text that begins like it
            pydantic_core.from_json(text)
            return _sealed(_without_envelope(text), _envelope_json(envelope))
    if not payload:
        return encode(None, envelope)
    return encode({"value": decode(payload)[0]["value"]}, envelope)


def _without_envelope(payload: bytes) -> bytes:
    """Return a JSON object without the envelope at its end; one elsewhere stays, and a later one counts instead."""
    place = payload.rfind(b'"_ether":')
    if place > 0 and payload[place - 1 : place] in (b"{", b","):
        try:
            pydantic_core.from_json(payload[place + 9 : -1])
        except ValueError:
            pass  # it is not the last member
        else:
            return payload[: place if payload[place - 1 : place] == b"{" else place - 1] + b"}"
    body = payload[:-1].rstrip() + b"}"
    return b"{}" if body[1:].lstrip() == b"}" else body


def _cbor_with_envelope(payload: bytes, envelope: Envelope) -> bytes:
    import cbor2

    try:
        content = cbor2.loads(payload[len(CBOR_MAGIC) :])  # arrays stay the tagged bytes they are
    except Exception as exc:
        raise PayloadError(f"damaged CBOR: {exc}") from exc
    if not isinstance(content, dict):
        content = {"value": content}
    content.pop("_ether", None)
    return CBOR_MAGIC + cbor2.dumps({**content, "_ether": _envelope_fields(envelope)})


def to_json(value: Any) -> bytes:
    """Return any value as compact JSON, NaN as null; PayloadError where it cannot."""
    try:
        return pydantic_core.to_json(value, inf_nan_mode="null", fallback=_plain_scalar)
    except (ValueError, RecursionError) as exc:  # PydanticSerializationError is a ValueError
        raise PayloadError(f"a {type(value).__name__} cannot travel: {exc}") from exc


def plain(value: Any) -> Any:
    """Return any value as JSON holds it, arrays as lists; PayloadError where it cannot."""

    def as_list(item: Any) -> Any:
        return item.tolist() if _is_array(item) else _plain_scalar(item)

    try:
        return pydantic_core.from_json(pydantic_core.to_json(value, inf_nan_mode="null", fallback=as_list))
    except (ValueError, RecursionError) as exc:
        raise PayloadError(f"{value!r:.80} cannot be recorded as JSON: {exc}") from exc


def decode(payload: bytes) -> tuple[dict[str, Any], Envelope | None]:
    """Return the fields of a payload, and ether's facts about it where the publisher gave any.

    JSON objects are their own fields; an empty payload has none; other JSON, text and bytes are the field ``value``.
    Arrays come as NumPy arrays of their own.

    Raises:
        PayloadError: the payload says it is CBOR and is not.
    """
    if not payload:
        return {}, None
    if payload.startswith(CBOR_MAGIC):
        content = _decode_cbor(payload)
    else:
        try:
            content = pydantic_core.from_json(payload)
        except ValueError:
            try:
                content = payload.decode()
            except UnicodeDecodeError:
                content = payload
    if not isinstance(content, dict):
        return {"value": content}, None
    return content, _read_envelope(content.pop("_ether", None))


def envelope_of(payload: bytes) -> Envelope | None:
    """Return ether's facts about a payload, without parsing the rest where it is JSON as ether writes it.

    Raises:
        PayloadError: the payload says it is CBOR and is not.
    """
    if found := _TAIL.search(payload, max(0, len(payload) - 300)):
        by, boot, number, t, ms = found.groups()
        return Envelope(
            by.decode(), boot.decode(), int(number), None if t is None else float(t), None if ms is None else float(ms)
        )
    if b"_ether" not in payload:
        return None
    return decode(payload)[1]


def numbering(payload: bytes) -> Envelope | None:
    """Return ether's facts about a payload; None where there are none or they cannot be read. Never raises.

    Looks at the end of the payload first, where ether's own encoders put them, and never loads NumPy.
    """
    if b"_ether" not in payload[-400:] and b"_ether" not in payload:
        return None
    try:
        if payload.startswith(CBOR_MAGIC):
            return _numbering_cbor(payload)
        place = payload.rfind(b'"_ether":{')
        if place > 0 and payload[place - 1 : place] in (b"{", b","):
            try:
                found = pydantic_core.from_json(payload[place + 9 : -1])
            except ValueError:
                pass  # it is not the last member
            else:
                return _sound(found)
        content = pydantic_core.from_json(payload)
        return _sound(content.get("_ether")) if isinstance(content, dict) else None
    except Exception:  # noqa: BLE001 - a foreign payload that happens to hold our word may raise anything
        return None


def parsed(payload: bytes) -> tuple[dict[str, Any] | None, Envelope | None]:
    """Return the fields of a JSON object, and what `numbering` says of it, at the price of one; never raises.

    Of any other payload the fields are None: they are for `codecs.decode` to find.
    """
    if payload[:1] == b"{":
        with contextlib.suppress(ValueError):  # a text that begins like an object
            fields: dict[str, Any] = pydantic_core.from_json(payload)
            found = fields.pop("_ether", None)
            return fields, _sound(found) if b"_ether" in payload else None
    return None, numbering(payload)


def readings_in(envelope: Envelope) -> int:
    """Return how many numbers a message takes: `k` of a batch, one otherwise."""
    k = envelope.k
    return k if type(k) is int and 1 <= k <= _MOST_READINGS else 1


def _numbering_cbor(payload: bytes) -> Envelope | None:
    import cbor2

    place = payload.rfind(_CBOR_KEY)
    if place > 0:
        with contextlib.suppress(Exception):  # not at the end, or not canonical: take the long way
            found = cbor2.loads(payload[place + len(_CBOR_KEY) :])
            if len(cbor2.dumps(found)) + place + len(_CBOR_KEY) == len(payload):
                return _sound(found)
    content = cbor2.loads(payload[len(CBOR_MAGIC) :], tag_hook=lambda *_: None)
    return _sound(content.get("_ether")) if isinstance(content, dict) else None


def _sound(found: Any) -> Envelope | None:
    """Return the envelope where its facts have the types they must have."""
    if not isinstance(found, dict):
        return None
    by, boot, number = found.get("by"), found.get("b"), found.get("n")
    if not (isinstance(by, str) and isinstance(boot, str) and type(number) is int and 0 <= number < 1 << 62):
        return None
    replay = found.get("replay")
    replay = replay if isinstance(replay, dict) else None
    return Envelope(by, boot, number, found.get("t"), found.get("ms"), found.get("k"), found.get("dt"), replay)


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields a result travels as, as Python values (see `encode`)."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    if hasattr(type(value), "model_dump"):
        return value.model_dump()  # type: ignore[no-any-return]  # a pydantic model, whose import is not ours to force
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return {"value": value}


def unpack(fields: dict[str, Any], envelope: Envelope) -> Iterator[tuple[dict[str, Any], Envelope]]:
    """Yield each reading of a batch (envelope member ``k``): its fields, and its own number and time.

    Raises:
        PayloadError: a field is no array of ``k`` items.
    """
    count = envelope.k or 0
    for name, items in fields.items():
        if not hasattr(items, "__len__") or isinstance(items, (str, bytes, dict)) or len(items) != count:
            raise PayloadError(f"field {name!r} of a batch of {count} is no array of {count}")
    for place in range(count):
        facts = Envelope(
            envelope.by, envelope.b, envelope.n + place,
            _nth(envelope.t, envelope.dt, place), _nth(envelope.ms, envelope.dt, place), replay=envelope.replay,
        )  # fmt: skip
        yield {name: items[place] for name, items in fields.items()}, facts


def part(payload: bytes, first: int, last: int) -> bytes:
    """Return the readings with numbers `first` to `last` of a batch, as a batch.

    Raises:
        PayloadError: it is no batch that can be parted.
    """
    content, envelope = decode(payload)
    if envelope is None or envelope.k is None:
        raise PayloadError("no batch")
    low, high = first - envelope.n, last - envelope.n + 1
    chosen: dict[str, Any] = {}
    for name, items in content.items():
        if not hasattr(items, "__len__") or isinstance(items, (str, bytes, dict)) or len(items) != envelope.k:
            raise PayloadError(f"field {name!r} of a batch of {envelope.k} is no array of {envelope.k}")
        chosen[name] = items[low:high]
    times: dict[str, Any] = {}
    for key in ("t", "ms"):
        found = getattr(envelope, key)
        times[key] = found[low:high] if isinstance(found, list) else _nth(found, envelope.dt, low)
    return encode(chosen, replace(envelope, n=first, k=high - low, **times))


def _nth(times: float | list[float] | None, spacing: float | None, place: int) -> float | None:
    if isinstance(times, list):
        return times[place] if place < len(times) else None
    return times if times is None or spacing is None else times + place * spacing


def is_binary(value: Any) -> bool:
    """Return whether a value holds bytes or an array somewhere, and so travels as CBOR."""
    try:
        return _holds_binary(value)
    except RecursionError:
        return False  # it holds itself: refused where it is encoded


def _holds_binary(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return False
    if isinstance(value, dict):
        return any(type(item) not in _PLAIN and _holds_binary(item) for item in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(type(item) not in _PLAIN and _holds_binary(item) for item in value)
    if isinstance(value, (bytes, bytearray, memoryview)) or _is_array(value):
        return True
    if hasattr(kind, "__pydantic_fields__"):
        return any(type(item) not in _PLAIN and _holds_binary(item) for item in vars(value).values())
    if is_dataclass(kind):
        return any(_holds_binary(getattr(value, each.name, None)) for each in fields(kind))
    return False


def _is_array(value: Any) -> bool:
    # NumPy is asked for only when somebody else has loaded it: a value cannot be an array before.
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.ndim > 0


def _plain_scalar(value: Any) -> Any:
    """Return a NumPy scalar (or 0-dimensional array) as Python's; what pydantic asks about a type it does not know."""
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise PayloadError(
        f"a {type(value).__name__} cannot travel; return a dict, a dataclass, a pydantic model, a scalar or an array"
    )


def _check_keys(fields: dict[Any, Any]) -> None:
    for key in fields:
        if isinstance(key, str) and key.startswith("_"):
            raise PayloadError(f"field {key!r}: names starting with '_' belong to ether; rename it")


def _envelope_json(envelope: Envelope) -> bytes:
    return json.dumps(_envelope_fields(envelope), separators=(",", ":")).encode()


def _envelope_fields(envelope: Envelope) -> dict[str, Any]:
    return {name: value for name in Envelope.__slots__ if (value := getattr(envelope, name)) is not None}


def _read_envelope(found: Any) -> Envelope | None:
    """Return the envelope, or None where a foreign client put something else under the reserved name."""
    if not isinstance(found, dict):
        return None
    by, boot, number = found.get("by"), found.get("b"), found.get("n")
    if not (isinstance(by, str) and isinstance(boot, str) and type(number) is int and number >= 0):
        return None
    count = found.get("k")
    if not (count is None or (type(count) is int and count > 0)):
        return None
    if not all(_is_time(found.get(key), key != "dt") for key in ("t", "ms", "dt")):
        return None
    if not isinstance(found.get("replay", {}), dict):
        return None
    return Envelope(**{key: value for key, value in found.items() if key in _ENVELOPE_KEYS})


def _is_time(value: Any, may_be_list: bool) -> bool:
    if isinstance(value, list):
        return may_be_list and all(type(item) in (int, float) for item in value)
    return value is None or type(value) in (int, float)


def _encode_cbor(value: Any, envelope: Envelope | None) -> bytes:
    import cbor2  # here, since most instances never meet an array

    members = dict(fields_of(value))
    _check_keys(members)
    try:
        content = {str(key): _cbor_ready(item) for key, item in members.items()}
        if envelope is not None:
            content["_ether"] = _envelope_fields(envelope)
        return CBOR_MAGIC + cbor2.dumps(content)
    except PayloadError:
        raise
    except (ValueError, TypeError, RecursionError) as exc:
        raise PayloadError(f"a {type(value).__name__} cannot travel: {exc}") from exc


def _cbor_ready(value: Any) -> Any:
    if type(value) in _PLAIN or isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if _is_array(value):
        return _typed_array(value)
    if isinstance(value, dict):
        return {str(key): _cbor_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_cbor_ready(item) for item in value]
    if is_binary(value):
        return _cbor_ready(fields_of(value))
    return json.loads(to_json(value))


def _typed_array(array: Any) -> Any:
    import cbor2

    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    tag = _TAG_OF_DTYPE.get(little.dtype.str)
    if tag is not None:
        flat: Any = cbor2.CBORTag(tag, little.tobytes())
    elif array.dtype.kind in "bUO":  # RFC 8746 has no type for these: a plain list of the items
        flat = [_cbor_ready(item) for item in array.ravel().tolist()]
    elif array.dtype.kind in "mM":
        flat = array.ravel().astype(str).tolist()
    else:
        raise PayloadError(f"an array of {array.dtype} cannot travel; send its parts as arrays of numbers")
    return flat if array.ndim == 1 else cbor2.CBORTag(40, [list(array.shape), flat])


def _decode_cbor(payload: bytes) -> Any:
    import cbor2

    try:
        return cbor2.loads(payload[len(CBOR_MAGIC) :], tag_hook=_read_tag)
    except Exception as exc:
        raise PayloadError(f"damaged CBOR: {exc}") from exc


def _read_tag(first: Any, second: Any) -> Any:
    import numpy

    tag = first if hasattr(first, "tag") else second  # cbor2 5 hands over (decoder, tag), cbor2 6 (tag, immutable)
    if tag.tag in DTYPE_OF_TAG:
        # A copy, so that the array is its owner's to change, as in a plain call.
        return numpy.frombuffer(tag.value, dtype=DTYPE_OF_TAG[tag.tag]).copy()
    if tag.tag == 40:
        shape, items = tag.value
        return numpy.asarray(items).reshape(shape)
    if tag.tag == 41:
        return numpy.asarray(tag.value)
    return tag.value
