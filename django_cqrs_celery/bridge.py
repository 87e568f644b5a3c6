"""The bridge to django-cqrs: what its masters publish read as changes, and changes written as its replicas read them.

Its messages hold one change each, a JSON object in place of a Celery message's list. The keys are the same; values
differ: times are ``str()`` of them, decimals are numbers, a delete names its key ``id`` whatever the field is called.
"""

from __future__ import annotations

import decimal
import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Any

from django.db import models

from django_cqrs_celery import images, serialization
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD, SignalType
from django_cqrs_celery.dataclasses import TransportPayload, decode_message, dumps, dumps_received, loads
from django_cqrs_celery.exceptions import DecodeError
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry

logger = logging.getLogger("django_cqrs_celery.bridge")

#: More digits than a JSON number keeps on its way through a float.
_FLOAT_DIGITS = 15
_read_moment = serialization.decoder_for(models.DateTimeField())


# --- from django-cqrs ----------------------------------------------------------------------------------------------


def is_foreign(body: bytes | str) -> bool:
    """Whether a message body is one of django-cqrs: an object, where Celery's is a list."""
    return body.lstrip()[:1] in (b"{", "{")


def read_body(body: bytes | str) -> TransportPayload:
    """The change of a message of django-cqrs. Raises ``DecodeError`` with what arrived."""
    return read(loads(body))


def directed(body: bytes | str, queue: str) -> bytes | str:
    """The body of a message that was meant for one queue alone, which django-cqrs says by the routing key only."""
    text = body if isinstance(body, str) else body.decode("utf-8", "surrogateescape")
    head, brace, rest = text.partition("{")
    if head.strip() or rest.lstrip()[:1] != '"':
        return body
    made = f'{brace}"queue":{dumps(queue)},{rest}'
    return made if isinstance(body, str) else made.encode("utf-8", "surrogateescape")


def read(data: Any) -> TransportPayload:
    """The change of a message that is already read from JSON. Raises ``DecodeError`` with the data."""
    if not isinstance(data, Mapping):
        raise DecodeError(f"A change is {type(data).__name__}, expected an object.", data)
    read_as = {**data, "force": False, "meta": serialization.guard(data.get("meta"))}
    for name in ("instance_data", "previous_data"):
        if isinstance(data.get(name), Mapping):
            read_as[name] = {key: serialization.guard(value) for key, value in data[name].items()}
    if isinstance(data.get("cqrs_id"), str):
        read_as["instance_pk"] = _wire_pk(data["cqrs_id"], data.get("instance_pk"))
    try:
        return TransportPayload.from_dict(read_as)
    except DecodeError as error:
        raise DecodeError(str(error), data) from None


def _wire_pk(cqrs_id: str, value: Any) -> Any:
    """The primary key as a master of this project sends it: tombstones and dead letters know the row by its text."""
    model: Any = ReplicaRegistry.models.get(cqrs_id)
    if type(value) is int or not hasattr(model, "_meta"):
        return value
    try:
        return images.wire_pk(model, serialization.decode(model._meta.pk, value))
    except Exception:  # the stage that applies the change says what is wrong with it
        return value


def time_of(change: TransportPayload) -> datetime | None:
    """When the master made a change, by the clock of the master; None where the message does not tell."""
    try:
        return _read_moment(change.instance_data.get(UPDATED_FIELD))
    except Exception:  # whatever is there instead of a time
        return None


# --- to django-cqrs ------------------------------------------------------------------------------------------------


def bodies(message: bytes) -> list[bytes]:
    """The changes of a Celery message, each as the body of a message of django-cqrs.

    One that has no such form is left out with an error in the log; replicas that read Celery's messages get it.
    """
    made = []
    for change in decode_message(message):
        try:
            made.append(_body(change))
        except Exception as error:  # JSON that is nested too deep for Python's parser, for example
            logger.error(
                "A change of %s has no form that django-cqrs could read: %s", change.get("cqrs_id"),
                type(error).__name__, extra={"action": "cqrs_not_bridged"},
            )  # fmt: skip
    return made


def _body(change: dict[str, Any]) -> bytes:
    model: Any = MasterRegistry.models.get(change["cqrs_id"])
    data = _values(model, change["instance_data"])
    pk = _value(model, "pk", change["instance_pk"])
    if change["signal_type"] == SignalType.DELETE.value:
        # Its replicas look for the key under this name and for these values alone.
        data = {"id": pk, **{key: data[key] for key in (REVISION_FIELD, UPDATED_FIELD, "custom") if key in data}}
    previous = change.get("previous_data")
    expires = change.get("expires")
    body = {
        "signal_type": change["signal_type"],
        "cqrs_id": change["cqrs_id"],
        "instance_data": data,
        "previous_data": None if previous is None else _values(model, previous),
        "instance_pk": pk,
        "correlation_id": change.get("correlation_id"),
        "retries": change.get("retries", 0),
        "expires": None if expires is None else datetime.fromisoformat(expires).replace(microsecond=0).isoformat(),
        "meta": {} if change.get("meta") is None else serialization.unguard(change["meta"]),
    }
    return _text(body).encode()


def _values(model: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(model, name, value) for name, value in data.items()}


def _value(model: Any, name: str, value: Any) -> Any:
    if value is None:
        return None
    translate = _translators(model).get(name) if model is not None else None
    return serialization.unguard(value) if translate is None else translate(value)


@cache
def _translators(model: Any) -> dict[str, Callable[[Any], Any]]:
    """Functions from wire values to what django-cqrs would send, by field name, for fields where they differ."""
    found: dict[str, Callable[[Any], Any]] = {}
    plain = not getattr(model, "CQRS_SERIALIZER", None)
    for field in model._meta.concrete_fields:
        kind = serialization.value_field(field)
        if not (serialization.is_builtin(kind) and (plain or field.primary_key or field.name == UPDATED_FIELD)):
            continue
        if isinstance(kind, models.DecimalField):
            found[field.name] = _decimal_of(kind.decimal_places)
        elif isinstance(kind, models.DateTimeField):
            found[field.name] = _spaced
        if field.primary_key and field.name in found:
            found["pk"] = found[field.name]
    return found


def _spaced(value: Any) -> Any:
    """``2030-01-31T12:00:00+00:00`` as ``str()`` writes it."""
    return value.replace("T", " ", 1) if isinstance(value, str) else value


def _decimal_of(places: int | None) -> Callable[[Any], Any]:
    def translate(value: Any) -> Any:
        try:
            number = decimal.Decimal(value)
            if len(number.as_tuple().digits) > _FLOAT_DIGITS:
                return value
            exact = decimal.Decimal(float(number))
            step = decimal.Decimal(1).scaleb(-(places or 0))
            with decimal.localcontext(prec=1100):
                return float(number) if exact.quantize(step) == number else value
        except (decimal.InvalidOperation, TypeError, ValueError, OverflowError):
            return value

    return translate


def _text(body: dict[str, Any]) -> str:
    """JSON that every parser takes, ``ujson`` of any release among them; escaped where UTF-8 has no bytes for it."""
    text = dumps_received(body)
    return text if text.isascii() else json.dumps(body, separators=(",", ":"))
