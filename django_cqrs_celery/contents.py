"""Hashes of replicated values: what finds a change that raised no revision, such as raw SQL on either side.

Two engines, and two models, hold one value in different forms (``12.5`` and ``12.50``, a time with another offset, JSON
with its keys in another order). So a value is hashed in a form that depends on the kind of the master's field alone.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dateutil import parser as dateutil_parser
from django.db import models

from django_cqrs_celery import images, managers, serialization
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.exceptions import ConfigurationError, DecodeError

NUMBER, TIME, JSON, TEXT = "number", "time", "json", "text"
_DIGITS, _MODULUS = 8, 16**8
_EXACT = decimal.Context(prec=2000)


@dataclass(frozen=True)
class Content:
    """Whose values are compared: ``kinds`` by the master's field name, ``names`` of the columns by the same."""

    kinds: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)

    def texts(self, image: Mapping[str, Any]) -> dict[str, str]:
        """The comparable text of each value of an image."""
        return {name: canonical(kind, image.get(self.names.get(name, name))) for name, kind in self.kinds.items()}

    def row(self, image: Mapping[str, Any]) -> str:
        """Hash of all values of a row."""
        return _md5(json.dumps(sorted(self.texts(image).items())))[:16]

    def only(self, names: Sequence[str]) -> Content:
        """The same for fewer fields."""
        return Content({name: kind for name, kind in self.kinds.items() if name in names}, self.names)


def of_master(model: Any, wanted: bool | Sequence[str]) -> Content | None:
    """What a master offers to compare; None where its images are not its columns.

    Raises ``ConfigurationError`` for a name that is no replicated field.
    """
    if not images.is_plain(model):
        return None
    skipped = (REVISION_FIELD, UPDATED_FIELD, model._meta.pk.name)
    kinds = {f.name: _kind(f) for f in images.replicated_fields(model) if f.name not in skipped}
    if wanted is True or not wanted:
        return Content(kinds)
    unknown = [name for name in wanted if name not in kinds]
    if unknown:
        raise ConfigurationError(
            f"The content of {', '.join(unknown)} cannot be compared: {model._meta.label} replicates"
            f" {', '.join(kinds)}."
        )
    return Content({name: kind for name, kind in kinds.items() if name in wanted})


def of_replica(model: Any, kinds: Any) -> Content:
    """What a replica can compare of a master's fields. Raises ``DecodeError`` for what is no such list."""
    if not isinstance(kinds, Mapping) or not all(isinstance(kind, str) for kind in kinds.values()):
        raise DecodeError("The fields of a digest are no object of names and kinds.")
    if model.CQRS_CUSTOM_SERIALIZATION:
        return Content({})
    columns = {name: column.name for name, column in managers.replica_fields(model).items()}
    return Content({name: str(kind) for name, kind in kinds.items() if name in columns}, columns)


def _kind(column: models.Field) -> str:
    column = serialization.value_field(column)
    if isinstance(column, models.JSONField):
        return JSON
    if isinstance(column, (models.IntegerField, models.FloatField, models.DecimalField, models.BooleanField)):
        return NUMBER
    return TIME if isinstance(column, models.DateTimeField) else TEXT


def canonical(kind: str, wire: Any) -> str:
    """The text of a wire value that is the same on both sides."""
    if wire is None:
        return "~"
    try:
        return _FORMS.get(kind, str)(wire)
    except Exception:  # not of its kind: then as it is
        return str(wire)


def _number(wire: Any) -> str:
    if isinstance(wire, int):
        return str(int(wire))
    value = decimal.Decimal(repr(wire) if isinstance(wire, float) else str(wire))
    if value == value.to_integral_value():
        return str(int(value))
    return str(_EXACT.normalize(value))


def _time(wire: str) -> str:
    if wire.endswith("+00:00"):
        return wire
    return dateutil_parser.isoparse(wire).astimezone(datetime.timezone.utc).isoformat()


def _json(wire: Any) -> str:
    return json.dumps(_plain(serialization.unguard(wire)), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


_FORMS: dict[str, Callable[[Any], str]] = {NUMBER: _number, TIME: _time, JSON: _json}


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


class Sums:
    """Sum of the hashes of each field's values by bucket, so that a replica compares the fields that it has."""

    def __init__(self, content: Content, buckets: int) -> None:
        self.content = content
        self.values = {name: [0] * buckets for name in content.kinds}

    def add(self, bucket: int, text: str, image: Mapping[str, Any]) -> None:
        """Count the values of a row in."""
        for name, value in self.content.texts(image).items():
            sums = self.values[name]
            sums[bucket] = (sums[bucket] + int(_md5(f"{text}\0{value}")[:_DIGITS], 16)) % _MODULUS

    def differing(self, other: Sums) -> set[int]:
        """Buckets in which a field that both have differs."""
        return {
            bucket
            for name in self.values.keys() & other.values.keys()
            for bucket, (a, b) in enumerate(zip(self.values[name], other.values[name], strict=True))
            if a != b
        }

    def to_dict(self) -> dict[str, str]:
        """As it travels: eight hexadecimal digits for each bucket."""
        return {name: "".join(f"{value:08x}" for value in sums) for name, sums in self.values.items()}

    @classmethod
    def from_dict(cls, data: Any, content: Content, buckets: int) -> Sums:
        """Read what came, for the fields of ``content``. Raises ``DecodeError``."""
        found = cls(content, buckets)
        for name in found.values:
            text = data.get(name) if isinstance(data, Mapping) else None
            if not isinstance(text, str) or len(text) != _DIGITS * buckets:
                raise DecodeError(f"A digest has not as many sums of {name} as buckets.")
            try:
                found.values[name] = [int(text[i : i + _DIGITS], 16) for i in range(0, len(text), _DIGITS)]
            except ValueError:
                raise DecodeError("A digest's sums are no hexadecimal digits.") from None
        return found
