"""The schema contract: what a master's models send, as a file that a replica's CI compares with the replica's models.

A description holds no SQL and no Python types, but what decides whether a value fits: a kind, limits, and whether it
may be null. ``compare`` also says which of two services is to be deployed first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.db.backends.base.operations import BaseDatabaseOperations

from django_cqrs_celery import images, links, managers, serialization
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD, WIRE_VERSION
from django_cqrs_celery.exceptions import CQRSError
from django_cqrs_celery.registries import MasterRegistry, ReplicaRegistry

#: Version of the file's format.
FORMAT = 1
MASTER, REPLICA = "master", "replica"

#: The kind of a field's values, by field class; the first match counts.
_KINDS: tuple[tuple[type[models.Field], str], ...] = (
    (models.BooleanField, "boolean"),
    (models.IntegerField, "integer"),
    (models.FloatField, "float"),
    (models.DecimalField, "decimal"),
    (models.DateTimeField, "datetime"),
    (models.DateField, "date"),
    (models.TimeField, "time"),
    (models.DurationField, "duration"),
    (models.UUIDField, "uuid"),
    (models.GenericIPAddressField, "ip"),
    (models.BinaryField, "binary"),
    (models.JSONField, "json"),
    (models.FileField, "text"),
    (models.FilePathField, "text"),
    (models.CharField, "text"),
    (models.TextField, "text"),
)
#: Kinds whose values a column of text can take, with the longest text that they have; an integer's is its own.
_AS_TEXT = {"integer": 20, "uuid": 36, "ip": 39, "date": 10, "time": 15, "datetime": 32, "float": 24, "duration": 30}


class SchemaError(CQRSError):
    """A file that is no schema."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What would not fit. ``first``: the service to be deployed first so that it does, None where neither helps."""

    cqrs_id: str
    message: str
    first: str | None


# --- describing ------------------------------------------------------------------------------------------------------


def export(cqrs_ids: Iterable[str] | None = None) -> dict[str, Any]:
    """Description of this service's master models, all or some. Raises ``UnknownCQRSId``."""
    chosen = sorted(MasterRegistry.models if cqrs_ids is None else cqrs_ids)
    described = {cqrs_id: _describe_model(MasterRegistry.get_model_by_cqrs_id(cqrs_id)) for cqrs_id in chosen}
    return {"cqrs_schema": FORMAT, "message_format": WIRE_VERSION, "models": described}


def _describe_model(model: Any) -> dict[str, Any]:
    description: dict[str, Any] = {"primary_key": model._meta.pk.name}
    if images.is_plain(model):
        description["fields"] = {field.name: describe(field) for field in images.replicated_fields(model)}
        for field in links.replicated(model):
            target = field.related_model._meta.pk  # type: ignore[union-attr]
            description["fields"][field.name] = {"kind": "links", "type": "ManyToManyField", "to": describe(target)}
    else:
        description["serializer"] = True  # what travels is known when it is made
    text = json.dumps(description, sort_keys=True)
    return {"version": hashlib.sha256(text.encode()).hexdigest()[:12], **description}


def describe(field: models.Field) -> dict[str, Any]:
    """What decides whether a value fits into a column: ``kind``, ``null``, and the limits of the kind."""
    column = serialization.value_field(field)
    kind = next((kind for cls, kind in _KINDS if isinstance(column, cls)), "other")
    if not serialization.is_builtin(column):
        kind = "other"
    description: dict[str, Any] = {"type": column.get_internal_type(), "kind": kind, "null": bool(field.null)}
    if kind == "text":
        description["max_length"] = column.max_length
    elif kind == "decimal":
        description["max_digits"] = column.max_digits  # type: ignore[attr-defined]
        description["decimal_places"] = column.decimal_places  # type: ignore[attr-defined]
    elif kind == "integer":
        low, high = BaseDatabaseOperations.integer_field_ranges.get(column.get_internal_type(), (None, None))
        description["min"], description["max"] = low, high
    elif kind == "other":
        description["type"] = f"{type(column).__module__}.{type(column).__qualname__}"
    return description


# --- reading ---------------------------------------------------------------------------------------------------------


def read(text: str) -> dict[str, Any]:
    """A description from the text of a file. Raises ``SchemaError``, which says what is wrong with it."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"It is no JSON: {error}.") from None
    if not isinstance(data, dict) or "cqrs_schema" not in data:
        raise SchemaError("It is not what cqrs_schema export writes: there is no key 'cqrs_schema'.")
    version = data["cqrs_schema"]
    if type(version) is not int or version < 1:
        raise SchemaError(f"Its format version is {version!r}, expected a number.")
    if version > FORMAT:
        raise SchemaError(
            f"Its format version is {version}, and this release reads up to {FORMAT}: upgrade django-cqrs-celery here."
        )
    described = data.get("models")
    if not isinstance(described, dict):
        raise SchemaError("Its 'models' is missing or no object.")
    for cqrs_id, model in described.items():
        _need(isinstance(model, dict), cqrs_id, "is no object")
        _need(isinstance(model.get("primary_key"), str), cqrs_id, "has no 'primary_key'")
        if model.get("serializer") is not True:
            _need(isinstance(model.get("fields"), dict), cqrs_id, "has no 'fields'")
            for name, field in model["fields"].items():
                readable = isinstance(field, dict) and isinstance(field.get("kind"), str)
                _need(readable, cqrs_id, f"has a field {name!r} without a 'kind'")
    return data


def _need(condition: bool, cqrs_id: str, problem: str) -> None:
    if not condition:
        raise SchemaError(f"Its model {cqrs_id!r} {problem}.")


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(description: Mapping[str, Any]) -> Iterator[Finding]:
    """What of the master's would not fit into this service's replica models."""
    for cqrs_id, model in sorted(ReplicaRegistry.models.items()):
        master = description["models"].get(cqrs_id)
        if master is None:
            known = ", ".join(sorted(description["models"])) or "none"
            yield Finding(
                cqrs_id=cqrs_id, first=MASTER, message=f"The master has no model of this CQRS_ID (it has {known})."
            )
        elif master.get("serializer") is not True and _writes_columns(model):
            for message, first in _compare_model(model, master):
                yield Finding(cqrs_id=cqrs_id, message=message, first=first)


def not_compared(description: Mapping[str, Any]) -> list[str]:
    """CQRS_IDs of which only the name could be compared: a serializer or a hook of the project decides."""
    return [
        cqrs_id
        for cqrs_id, model in sorted(ReplicaRegistry.models.items())
        if cqrs_id in description["models"]
        and (description["models"][cqrs_id].get("serializer") is True or not _writes_columns(model))
    ]


def _writes_columns(model: Any) -> bool:
    return (
        issubclass(model, models.Model)
        and not model.CQRS_NO_DB_OPERATIONS  # type: ignore[attr-defined]
        and not model.CQRS_CUSTOM_SERIALIZATION  # type: ignore[attr-defined]
    )


def _compare_model(model: Any, master: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    sent = master["fields"]
    mapping = getattr(model, "CQRS_MAPPING", None) or {}
    for name in mapping:
        if name not in sent:
            yield f"CQRS_MAPPING names {name!r}, which the master does not send.", MASTER
    filled: dict[str, tuple[str, models.Field]] = {}
    for name, field in managers.replica_fields(model).items():
        source = name if name in sent else field.attname if field.attname in sent else None
        if source is not None:
            filled[field.name] = (source, field)
    for field in managers.missing_fields(model, filled):
        if not field.primary_key and field.name not in (REVISION_FIELD, UPDATED_FIELD):
            yield f"{field.name} is required here, and the master does not send it.", MASTER
    pk = model._meta.pk
    if filled.get(pk.name, ("", None))[0] != master["primary_key"]:
        yield f"{pk.name}, the primary key here, is not filled by the master's, {master['primary_key']}.", None
    for source, links_field in links.received(model).items():
        if source not in sent:
            continue  # they stay as they are
        if sent[source]["kind"] != "links":
            yield f"{links_field.name} is a many-to-many field here, and the master's {source} is none.", None
            continue
        target = links_field.related_model._meta.pk  # type: ignore[union-attr]
        for problem in misfits(sent[source].get("to") or {"kind": "other"}, describe(target)):
            yield f"{links_field.name}: the key of what it is linked to {problem}.", REPLICA
    for source, field in filled.values():
        for problem in misfits(sent[source], describe(field)):
            where = field.name if source == field.name else f"{field.name} (the master's {source})"
            yield f"{where} {problem}.", REPLICA


def misfits(sent: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Why values of the master's field would not all fit into the replica's."""
    if sent.get("null") and not here["null"]:
        yield "may be null on the master and not here"
    kinds = sent["kind"], here["kind"]
    if "other" in kinds:
        if sent.get("type") != here["type"] and kinds[0] != kinds[1]:
            yield f"is {sent.get('type')} on the master and {here['type']} here"
    elif kinds == ("text", "text"):
        yield from _too_long(sent.get("max_length"), here["max_length"])
    elif kinds[1] == "text" and kinds[0] == "decimal":
        yield from _too_long((sent.get("max_digits") or 0) + 2, here["max_length"])
    elif kinds[1] == "text" and kinds[0] in _AS_TEXT:
        yield from _too_long(_AS_TEXT[kinds[0]], here["max_length"])
    elif kinds == ("integer", "integer"):
        yield from _out_of_range(sent, here)
    elif kinds == ("decimal", "decimal"):
        yield from _too_precise(sent, here)
    elif kinds[0] != kinds[1]:
        yield f"is {kinds[0]} on the master and {kinds[1]} here"


def _too_long(sent: int | None, here: int | None) -> Iterator[str]:
    if here is not None and (sent is None or sent > here):
        yield f"takes {here} characters here, and the master's has {'no limit' if sent is None else f'up to {sent}'}"


def _out_of_range(sent: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    low, high = sent.get("min"), sent.get("max")
    too_low = here["min"] is not None and (low is None or low < here["min"])
    too_high = here["max"] is not None and (high is None or high > here["max"])
    # A key that counts up has no negative values, whatever its column could hold.
    counted = str(sent.get("type", "")).endswith("AutoField")
    if too_high or (too_low and not counted):
        yield f"holds {here['min']} to {here['max']} here, and the master's {low} to {high}"


def _too_precise(sent: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    digits, places = sent.get("max_digits"), sent.get("decimal_places")
    if here["decimal_places"] is not None and (places is None or places > here["decimal_places"]):
        yield f"keeps {here['decimal_places']} decimal places here, and the master's has {places}"
    if here["max_digits"] is not None:
        whole = here["max_digits"] - (here["decimal_places"] or 0)
        if digits is None or digits - (places or 0) > whole:
            yield f"takes {whole} digits before the point here, and the master's has {(digits or 0) - (places or 0)}"
