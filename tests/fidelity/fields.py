"""Fields of a project's own, as Django's manual describes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.db import models


@dataclass(frozen=True)
class Point:
    """A value that is no JSON and has no useful ``str()``."""

    x: Decimal
    y: Decimal


class PointField(models.Field):
    """Keeps a ``Point`` as ``x;y``."""

    def get_internal_type(self):
        return "CharField"

    def from_db_value(self, value, expression, connection):
        return None if value is None else self.to_python(value)

    def to_python(self, value):
        if value is None or isinstance(value, Point):
            return value
        try:
            x, y = value.split(";")
            return Point(Decimal(x), Decimal(y))
        except (ValueError, ArithmeticError) as error:
            raise ValidationError("no point") from error

    def get_prep_value(self, value):
        return None if value is None else f"{value.x};{value.y}"

    def value_to_string(self, obj):
        return self.get_prep_value(self.value_from_object(obj))


class TagsField(models.TextField):
    """Keeps a list of texts as JSON text."""

    def from_db_value(self, value, expression, connection):
        return self.to_python(value)

    def to_python(self, value):
        return json.loads(value) if isinstance(value, str) else value

    def get_prep_value(self, value):
        return None if value is None else json.dumps(value)

    def value_to_string(self, obj):
        return self.get_prep_value(self.value_from_object(obj))


class ShoutField(models.CharField):
    """Writes upper case by ``get_prep_value``, reads as Django does."""

    def get_prep_value(self, value):
        return None if value is None else str(value).upper()


class NoWayBackField(models.Field):
    """Has no ``to_python``: its text cannot be read."""

    def get_internal_type(self):
        return "CharField"


class DecimalDecoder(json.JSONDecoder):
    """A decoder that makes of JSON numbers what ``json.dumps`` refuses."""

    def __init__(self, **kwargs):
        super().__init__(parse_float=Decimal, **kwargs)
