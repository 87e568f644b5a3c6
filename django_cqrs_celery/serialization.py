"""Wire values: how each field type becomes JSON and comes back equal.

A wire value is a JSON scalar wherever the field's type allows: numbers and booleans as they are, everything else as the
text that the type's own ``to_python`` reads (decimals, times, durations, UUIDs, file names; bytes as base64). JSON
fields travel as JSON, wrapped in ``{"$cqrs:json": "<text>"}`` where plain JSON would not survive the way: the JSON null
(a plain ``null`` is the SQL NULL), objects with keys that message codecs give a meaning of their own, numbers beyond
what a float can hold, and nesting deeper than parsers like.
"""

from __future__ import annotations

import base64
import binascii
import copy
import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from dateutil import parser as dateutil_parser
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.fields.files import FieldFile
from django.utils import timezone
from django.utils.duration import duration_string

from django_cqrs_celery.exceptions import ApplyError, EncodeError

Encoder = Callable[[Any], Any]
Decoder = Callable[[Any], Any]

JSON_WRAP = "$cqrs:json"
#: Keys that kombu's JSON codec (``__type__``) or this one (``$cqrs:…``) would take for their own, also written with
#: escapes; constants that are no JSON; exponents that may be too large for a float. To find too much is harmless.
_HOSTILE = re.compile(r"__type__|\$cqrs:|\\u00(?:5f|24)|NaN|Infinity|[eE]\+?\d{3}", re.IGNORECASE)
#: JSON with more brackets than this may be nested deeper than a parser on the way can follow.
_MANY_BRACKETS = 200


def plain(value: Any) -> Any:
    """Any Python value as JSON: for ``meta``, previous values, and what serializers return.

    Raises ``EncodeError`` for a type that has no text of its own.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # not str(): that is the name of a member of an enumeration
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _encode_float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return duration_string(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, FieldFile):
        return value.name
    if isinstance(value, models.Model):
        return plain(value.pk)
    if hasattr(value, "__str__") and type(value).__module__.startswith("django.utils.functional"):
        return str(value)  # a lazy translation
    raise EncodeError(f"{type(value).__name__} has no JSON form.")


def guard(value: Any) -> Any:
    """JSON data as a wire value: wrapped where a codec on the way would misread it."""
    if not isinstance(value, (dict, list)):
        return value
    text = json_text(value)
    return {JSON_WRAP: text} if _is_hostile(text) else value


def unguard(value: Any) -> Any:
    """A wire value as JSON data; the other way of ``guard``."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get(JSON_WRAP), str):
        return json.loads(value[JSON_WRAP])
    return value


def json_text(value: Any, encoder: type[json.JSONEncoder] | None = None) -> str:
    """JSON text of a value. Raises ``EncodeError``."""
    try:
        return json.dumps(value, cls=encoder, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"A JSON value cannot be sent: {error}") from error


def wire_json(text: str) -> Any:
    """Wire value of a JSON field whose value is this JSON text."""
    if _is_hostile(text):
        return {JSON_WRAP: text}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a number of thousands of digits: the text itself may still be read
        return {JSON_WRAP: text}
    return {JSON_WRAP: text} if value is None else value


def _is_hostile(text: str) -> bool:
    return _HOSTILE.search(text) is not None or (
        len(text) > _MANY_BRACKETS and text.count("[") + text.count("{") > _MANY_BRACKETS and _depth(text) > 100
    )


def _depth(text: str) -> int:
    """How deep JSON text may be nested at the most; brackets in strings count too."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[{\]}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


# --- Python to wire ------------------------------------------------------------------------------------------------


def _encode_float(value: float) -> Any:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _encode_datetime(value: datetime.datetime) -> str:
    if timezone.is_naive(value):
        value = timezone.make_aware(value, timezone.get_default_timezone())
    return value.isoformat()


def _only(wanted: type | tuple[type, ...], value: Any, but_not: type | tuple[()] = ()) -> Any:
    if isinstance(value, wanted) and not isinstance(value, but_not):
        return value
    raise TypeError(f"{type(value).__name__} does not fit")


def _text_of(kind: type, to_text: Callable[[Any], str], but_not: type | tuple[()] = ()) -> Encoder:
    return lambda value: to_text(_only(kind, value, but_not))


def _encode_text(value: Any) -> str:
    if type(value) is str:
        return value
    return str.__str__(value) if isinstance(value, str) else str(value)


def _encode_bytes(value: Any) -> str:
    return base64.b64encode(bytes(memoryview(value))).decode("ascii")


def _encode_file(value: Any) -> str | None:
    return value.name if isinstance(value, FieldFile) else str(value)


def _encode_json(field: models.JSONField) -> Encoder:
    own_text = type(field).value_to_string is not models.JSONField.value_to_string

    def encode(value: Any) -> Any:
        if isinstance(value, models.Value):
            value = value.value
        elif own_text:
            value = field.value_to_string(_Holder(field, value))  # type: ignore[arg-type]
        return wire_json(json_text(value, field.encoder))

    return encode


#: Django's field types, the first match counts; None where wire value and Python value are the same.
_BUILTIN: list[tuple[type[models.Field], Encoder | None]] = [
    (models.BooleanField, None),
    (models.IntegerField, None),
    (models.FloatField, _encode_float),
    (models.DecimalField, _text_of(decimal.Decimal, str)),
    (models.DateTimeField, _encode_datetime),
    (models.DateField, _text_of(datetime.date, datetime.date.isoformat, but_not=datetime.datetime)),
    (models.TimeField, _text_of(datetime.time, datetime.time.isoformat)),
    (models.DurationField, _text_of(datetime.timedelta, duration_string)),
    (models.UUIDField, _text_of(uuid.UUID, str)),
    (models.BinaryField, _encode_bytes),
    (models.FileField, _encode_file),
    (models.FilePathField, _encode_text),
    (models.GenericIPAddressField, _encode_text),
    (models.CharField, _encode_text),
    (models.TextField, _encode_text),
]
_OF_VALUES = ("to_python", "value_to_string", "from_db_value")


class _Holder:
    """An object with one value, for ``value_to_string``."""

    def __init__(self, field: models.Field, value: Any) -> None:
        setattr(self, field.attname, value)


def is_builtin(field: models.Field) -> bool:
    """Whether the values of a field are those of Django's own field of that type."""
    own = type(field)
    for builtin, _ in _BUILTIN:
        if isinstance(field, builtin):
            return own.__module__.startswith(("django.db.", "model_utils.", "django_cqrs_celery.")) or all(
                getattr(own, name, None) is getattr(builtin, name, None) for name in _OF_VALUES
            )
    return False


def value_field(field: models.Field) -> models.Field:
    """The field whose values a column holds: what a foreign key refers to, what a generated column puts out."""
    while isinstance(field, (models.ForeignKey, models.GeneratedField)):
        column: Any = field.target_field if isinstance(field, models.ForeignKey) else field.output_field
        field = column
    if not hasattr(field, "attname"):
        field = copy.copy(field)
        field.set_attributes_from_name("value")
    return field


def is_json_column(field: models.Field) -> bool:
    """Whether the column holds JSON text as Django writes it, whatever its Python values are."""
    field = value_field(field)
    return isinstance(field, models.JSONField) and type(field).from_db_value is models.JSONField.from_db_value


def encoder_for(field: models.Field) -> Encoder | None:
    """Function from a Python value (not None) to its wire value; None where they are the same."""
    field = value_field(field)
    if isinstance(field, models.JSONField):
        return _encode_json(field)
    if is_builtin(field):
        return next(encoder for builtin, encoder in _BUILTIN if isinstance(field, builtin))

    def encode(value: Any) -> Any:
        return guard(plain(field.value_to_string(_Holder(field, value))))  # type: ignore[arg-type]

    return encode


def encode(field: models.Field, value: Any) -> Any:
    """Wire value of ``value`` in ``field``. Raises ``EncodeError``, which names the field."""
    return None if value is None else encode_with(encoder_for(field), field, value)


def encode_with(encoder: Encoder | None, field: models.Field, value: Any) -> Any:
    """As ``encode``, with the field's encoder at hand.

    The value may be what a program has assigned; it is first made what the field would read from the database.
    """
    if isinstance(value, models.Value) and not isinstance(value_field(field), models.JSONField):
        value = value.value
    if value is None:
        return None
    if hasattr(value, "resolve_expression") and not isinstance(value, models.Value):
        raise EncodeError(f"{field} cannot be sent: it is an expression that only the database can compute.")
    if encoder is None and type(value) in (int, bool):
        return value
    refused: Exception | None = None
    if encoder is not None:
        try:
            return encoder(value)
        except Exception as error:  # the methods of the project's fields may raise anything
            refused = error
    try:
        value = value_field(field).to_python(value)
        return value if encoder is None or value is None else encoder(value)
    except Exception as error:
        error.__context__ = refused
        raise EncodeError(f"{field} cannot be sent: {error}") from error


def why_unsendable(field: models.Field) -> str | None:
    """Why the values of a field cannot travel, or None. For the system check."""
    field = value_field(field)
    own = type(field)
    if isinstance(field, getattr(models, "CompositePrimaryKey", ())):
        return "a primary key of several columns has no text of its own"
    if isinstance(field, models.JSONField) or is_builtin(field) or own.__name__ == "SearchVectorField":
        return None
    if own.to_python is models.Field.to_python:
        return f"{own.__name__} does not define to_python(), so the text of a value cannot be read back"
    return None


# --- wire to Python ------------------------------------------------------------------------------------------------


def _decode_datetime(value: Any) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(_only(str, value))
    except ValueError:
        moment = dateutil_parser.parse(value)
    zone = timezone.get_default_timezone()
    if settings.USE_TZ:
        aware = timezone.make_aware(moment, zone) if timezone.is_naive(moment) else moment
        # In UTC, so that what no datetime can hold there (the end of the year 9999) is found here.
        return aware.astimezone(datetime.timezone.utc) if aware.utcoffset() else aware
    if timezone.is_naive(moment):
        return moment
    # What a service without time zones wrote by this very clock is taken as it stands: also the hour that was skipped.
    wall = moment.replace(tzinfo=None)
    same = timezone.make_aware(wall, zone).utcoffset() == moment.utcoffset()
    return wall if same else timezone.make_naive(moment, zone)


def _decode_bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_only(str, value), validate=True)
    except binascii.Error as error:
        raise ValidationError(f"not base64: {error}") from error


def _decode_integer(value: Any) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise ValidationError(f"{type(value).__name__} is no whole number")


def _decode_text(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, (dict, list)):
        raise ValidationError(f"{type(value).__name__} is no text")
    return str(value)


def _decode_json(field: models.JSONField) -> Decoder:
    own_reader = type(field).to_python not in (models.Field.to_python, models.JSONField.to_python)

    def decode(value: Any) -> Any:
        value = unguard(value)
        if value is None:
            return models.Value(None, models.JSONField())
        return field.to_python(value) if own_reader else value

    return decode


def _from_text(to_python: Decoder) -> Decoder:
    return lambda value: to_python(_only(str, value))


def _from_number_or_text(to_python: Decoder) -> Decoder:
    return lambda value: to_python(_only((int, float, str), value, but_not=bool))


@cache
def decoder_for(field: models.Field) -> Decoder:
    """Function from a wire value (not None) to the Python value that ``field`` stores."""
    field = value_field(field)
    to_python = field.to_python
    if isinstance(field, models.JSONField):
        return _decode_json(field)
    if not is_builtin(field):
        return lambda value: to_python(unguard(value))
    if isinstance(field, models.DateTimeField):
        return _decode_datetime
    if isinstance(field, models.BinaryField):
        return _decode_bytes
    if isinstance(field, models.IntegerField):
        return _decode_integer
    if isinstance(field, models.BooleanField):
        return lambda value: to_python(_only((bool, int, str), value))
    if isinstance(field, (models.FloatField, models.DecimalField)):
        return _from_number_or_text(to_python)
    if isinstance(field, (models.DateField, models.TimeField, models.DurationField, models.UUIDField)):
        return _from_text(to_python)
    return _decode_text


def decode(field: models.Field, value: Any) -> Any:
    """Python value of a wire value. Raises ``ApplyError``, which names the field, never the value."""
    if value is None:
        return None
    try:
        return decoder_for(field)(value)
    except Exception as error:  # to_python of the project's fields may raise anything
        raise ApplyError(f"{field} cannot take a {type(value).__name__} of the message") from error


def pk_text(wire_pk: Any) -> str:
    """Primary key as the text under which outbox, tombstones and dead letters know a row."""
    return wire_pk if type(wire_pk) is str else str(wire_pk)
