"""What the triggers of a master model need to know, resolved to tables, columns and kinds of values.

The SQL of the three engines is written from this alone; no name in it comes from anywhere but ``Model._meta``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from django.db import models

from django_cqrs_celery import serialization

#: Raised when the SQL changes what it does, so that installed triggers count as outdated.
VERSION = 1

#: The first match counts. What is missing here has no text of its wire value in SQL.
_KINDS: tuple[tuple[type[models.Field], str], ...] = (
    (models.BooleanField, "boolean"),
    (models.IntegerField, "integer"),
    (models.FloatField, "float"),
    (models.DecimalField, "decimal"),
    (models.DateTimeField, "datetime"),
    (models.DateField, "date"),
    (models.UUIDField, "uuid"),
    (models.FileField, "text"),
    (models.FilePathField, "text"),
    (models.CharField, "text"),
    (models.TextField, "text"),
)


def kind_of(field: models.Field) -> str | None:
    """Which way the values of a column become wire values in SQL; None where there is none."""
    field = serialization.value_field(field)
    if not serialization.is_builtin(field):
        return None
    return next((kind for builtin, kind in _KINDS if isinstance(field, builtin)), None)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column whose values become text: the name of the field, that of the column, its kind, decimal places."""

    name: str
    column: str
    kind: str | None
    places: int = 0

    @classmethod
    def of(cls, field: models.Field) -> Column:
        """The column of a field."""
        places = getattr(serialization.value_field(field), "decimal_places", None) or 0
        return cls(name=field.name, column=str(field.column), kind=kind_of(field), places=places)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One set of triggers.

    ``table``: of the master. ``compared``: columns a change of which is replicated. ``tracked``: columns whose previous
    values travel; ``inherited``: the names of those in other tables. ``quote``: of the connection. ``native_uuid``:
    whether UUIDs are a type of the database.
    """

    name: str
    cqrs_id: str
    table: str
    key: Column
    compared: tuple[str, ...]
    tracked: tuple[Column, ...]
    revision: str
    updated: str
    outbox: str
    quote: Callable[[str], str]
    native_uuid: bool
    inherited: tuple[str, ...] = ()

    def literal(self, text: str) -> str:
        """A text as SQL; it holds no percent sign, which Django's schema editor does not always leave alone."""
        return "'" + text.replace("'", "''") + "'"

    def trigger(self, suffix: str) -> str:
        """Unquoted name of one trigger of the set."""
        return f"{self.name}_{suffix}"


def fingerprint(statements: list[str]) -> str:
    """What tells one text of the triggers from another."""
    return hashlib.sha256("\n".join([str(VERSION), *statements]).encode()).hexdigest()[:16]


#: Stands in the triggers' text before the fingerprint; the database keeps it with the body.
MARK = "django_cqrs_celery capture"


def sealed(plan: Plan, write: Callable[[Plan, str], list[str]]) -> list[str]:
    """The statements that ``write`` makes, given the fingerprint of all; the same under whatever name of the table."""
    return write(plan, fingerprint(write(replace(plan, table=""), "")))


def previous_values(plan: Plan, changed: Callable[[str], str], encoded: Callable[[Column], str], glue: str) -> str:
    """The part of a JSON object that holds the previous values of the tracked columns that have changed.

    ``glue`` joins texts: ``||``, or a comma for ``CONCAT``. Each value is led by a comma.
    """
    parts = []
    for column in plan.tracked:
        head = plan.literal(f',"{column.name}":')
        value = f"CONCAT({head}, {encoded(column)})" if glue == "," else f"{head} || {encoded(column)}"
        parts.append(f"CASE WHEN {changed(column.column)} THEN {value} ELSE '' END")
    return f" {glue} ".join(parts)


def no_previous_values(plan: Plan) -> str | None:
    """The JSON object of a new row: every tracked field had no value; None where no field is tracked."""
    names = [*plan.inherited, *(column.name for column in plan.tracked)]
    return plan.literal("{" + ",".join(f'"{name}":null' for name in names) + "}") if names else None
