"""A change as a value, and a message as a list of changes; encoding and decoding stand together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import ujson
from dateutil import parser as dateutil_parser

from django_cqrs_celery.constants import PK_MAX_LENGTH, REVISION_FIELD, WIRE_VERSION, SignalType
from django_cqrs_celery.exceptions import DecodeError, EncodeError
from django_cqrs_celery.serialization import guard, unguard

#: The largest revision that the column on a replica can hold.
MAX_REVISION = 2**31 - 1


@dataclass(frozen=True)
class TransportPayload:
    """One create, update, delete or sync of one row: the unit that travels.

    ``instance_data`` holds wire values by master field name, ``cqrs_revision`` among them (``serialization`` tells what
    a wire value is). For a delete it holds the revision and, under ``custom``, what the hook
    ``get_custom_cqrs_delete_data`` gave.
    """

    signal_type: SignalType
    cqrs_id: str
    instance_data: Mapping[str, Any]
    #: Wire value of the primary key.
    instance_pk: Any
    #: The queue that the change was sent to alone; None where it goes to every replica.
    queue: str | None = None
    #: Values that tracked fields had before, by master field name.
    previous_data: Mapping[str, Any] | None = None
    correlation_id: str | None = None
    #: When the change stops being worth applying; None is never.
    expires: datetime | None = None
    #: How often applying it has failed.
    retries: int = 0
    #: What ``get_cqrs_meta`` gave.
    meta: Any = None
    #: A SYNC that may set an older revision; only asked for by a person.
    force: bool = False

    def __post_init__(self) -> None:
        if type(self.signal_type) is not SignalType:
            object.__setattr__(self, "signal_type", SignalType(self.signal_type))

    @property
    def pk(self) -> Any:
        """The primary key, as ``instance_pk``."""
        return self.instance_pk

    @property
    def revision(self) -> int:
        """The revision of the row that this change brings."""
        return self.instance_data[REVISION_FIELD]

    def is_expired(self, now: datetime | None = None) -> bool:
        """Whether the change's time is over."""
        return self.expires is not None and self.expires <= (now or datetime.now(timezone.utc))

    def retried(self) -> TransportPayload:
        """The same change after one more failure."""
        return replace(self, retries=self.retries + 1)

    def to_dict(self) -> dict[str, Any]:
        """The change as it travels."""
        data: dict[str, Any] = {
            "signal_type": str(self.signal_type),
            "cqrs_id": self.cqrs_id,
            "instance_data": self.instance_data,
            "instance_pk": self.instance_pk,
            "previous_data": self.previous_data,
            "correlation_id": self.correlation_id,
            "expires": None if self.expires is None else self.expires.isoformat(),
            "retries": self.retries,
            "meta": guard(self.meta),
        }
        if self.queue is not None:
            data["queue"] = self.queue
        if self.force:
            data["force"] = True
        return data

    @classmethod
    def from_dict(cls, data: Any) -> TransportPayload:
        """Read a change. Unknown keys are ignored, missing optional ones default.

        Raises ``DecodeError``, which names what is wrong and carries the data.
        """
        if not isinstance(data, Mapping):
            raise DecodeError(f"A change is {type(data).__name__}, expected an object.", data)
        missing = [key for key in ("signal_type", "cqrs_id", "instance_pk") if data.get(key) is None]
        if missing:
            raise DecodeError(f"A change lacks {', '.join(missing)}.", data)
        problem = _problem(data)
        if problem:
            raise DecodeError(problem, data)
        correlation_id, queue = data.get("correlation_id"), data.get("queue")
        retries: Any = data.get("retries")
        try:
            meta = unguard(data.get("meta"))
        except (ValueError, RecursionError):
            raise DecodeError("The JSON text of a change's meta cannot be read.", data) from None
        return cls(
            signal_type=SignalType(data["signal_type"]),
            cqrs_id=data["cqrs_id"],
            instance_data=data["instance_data"],
            instance_pk=data["instance_pk"],
            queue=queue if isinstance(queue, str) else None,
            previous_data=data.get("previous_data"),
            correlation_id=None if correlation_id is None else str(correlation_id),
            expires=_read_time(data.get("expires"), data),
            retries=retries if _is_count(retries) else 0,
            meta=meta,
            force=data.get("force") is True,
        )

    @classmethod
    def from_message(cls, dct: Any) -> TransportPayload:
        """As ``from_dict``, under the name that django-cqrs has for it."""
        return cls.from_dict(dct)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_REVISION


def _problem(data: Mapping[str, Any]) -> str | None:
    """What is wrong with a change that has all the keys it needs, or None."""
    if data["signal_type"] not in list(SignalType):
        return f"A change has the unknown signal_type {str(data['signal_type'])[:100]!r}."
    if not isinstance(data["cqrs_id"], str):
        return f"A change's cqrs_id is {type(data['cqrs_id']).__name__}, expected a string."
    if isinstance(data["instance_pk"], (Mapping, list, bool)):
        return f"A change's instance_pk is {type(data['instance_pk']).__name__}, expected a number or a string."
    if isinstance(data["instance_pk"], str) and len(data["instance_pk"]) > PK_MAX_LENGTH:
        return f"A change's instance_pk is longer than {PK_MAX_LENGTH} characters."
    instance_data, previous_data = data.get("instance_data"), data.get("previous_data")
    if not isinstance(instance_data, Mapping):
        return "A change has no instance_data object."
    if previous_data is not None and not isinstance(previous_data, Mapping):
        return f"A change's previous_data is {type(previous_data).__name__}, expected an object."
    revision = instance_data.get(REVISION_FIELD)
    if not isinstance(revision, int) or isinstance(revision, bool):
        return f"{REVISION_FIELD} is {type(revision).__name__}, expected a whole number."
    return None if _is_count(revision) else f"{REVISION_FIELD} is not between 0 and {MAX_REVISION}."


def _read_time(value: Any, data: Any) -> datetime | None:
    if value is None:
        return None
    try:
        moment = dateutil_parser.isoparse(value)
    except Exception:  # TypeError, ValueError, OverflowError, AttributeError: the parser is not particular
        raise DecodeError("A change's expires is not an ISO 8601 time.", data) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def dumps(value: Any) -> str:
    """JSON text of wire values. Raises ``EncodeError`` for anything that is not JSON."""
    try:
        text = ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False, allow_nan=False, default=_refuse)
        if not text.isascii() and _LONE_SURROGATE.search(text):
            # Half of a character, which databases keep in JSON as an escape; UTF-8 has no bytes for it.
            text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        return text
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(f"A value cannot be put into JSON: {error}") from error


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is not JSON")


def dumps_received(value: Any) -> str:
    """JSON text of what has come as JSON, constants that are none (``NaN``) included; ``loads`` reads it."""
    try:
        return dumps(value)
    except EncodeError:
        return json.dumps(value, separators=(",", ":"), default=str)


def loads(text: str | bytes) -> Any:
    """JSON text back. Raises ``DecodeError`` with the text."""
    try:
        return ujson.loads(text)
    except (ValueError, TypeError, RecursionError):
        pass
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"The text is no JSON: {error}", text) from error


_EMBED = '{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'


def encode_note(note: Mapping[str, Any]) -> bytes:
    """Body of a Celery message (protocol 2) with the arguments of a task of master and replica."""
    return f"[[],{dumps(note)},{_EMBED}]".encode()


def encode_message(changes: Sequence[str]) -> bytes:
    """Body of a Celery message (protocol 2) that carries ``changes``, each already JSON text."""
    return f'[[],{{"version":{WIRE_VERSION},"changes":[{",".join(changes)}]}},{_EMBED}]'.encode()


def decode_message(body: str | bytes) -> list[Any]:
    """The changes of a message body, not yet read one by one.

    A newer version is read all the same: what it added is ignored, and a change that cannot be read is set aside alone.
    Raises ``DecodeError`` with the body.
    """
    message = loads(body)
    if not (isinstance(message, list) and len(message) >= 2 and isinstance(message[1], Mapping)):
        raise DecodeError("The body is not that of a Celery message.", body)
    changes = message[1].get("changes")
    if not isinstance(changes, list):
        raise DecodeError("The message has no list of changes.", body)
    return changes
