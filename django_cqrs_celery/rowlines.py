"""The shortest way out of a PostgreSQL table: rows as JSON lines that the database itself writes.

Measured: about a tenth of the Python that it takes to read rows as values and to encode them. It serves fields whose
wire values PostgreSQL can write; a model with any other field takes the general way (``images``).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from django.conf import settings
from django.db import models

from django_cqrs_celery import images, links, serialization
from django_cqrs_celery.constants import REVISION_FIELD

#: What is not among the years that Python knows goes out as PostgreSQL writes it; a replica names the line.
_TIME = (
    "CASE WHEN {0} >= '0001-01-02 00:00:00+00' AND {0} < '9999-12-31 00:00:00+00'"
    " THEN to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US+00:00') ELSE {0}::text END"
)
#: SQL of the wire value by field class; the first match counts.
_SQL: list[tuple[type[models.Field], str]] = [
    (models.BooleanField, "{0}"),
    (models.IntegerField, "{0}"),
    (models.FloatField, "{0}"),
    (models.DecimalField, "{0}::text"),
    (models.DateTimeField, _TIME),
    (models.DateField, "{0}"),
    (models.TimeField, "{0}"),
    (models.UUIDField, "{0}"),
    (models.BinaryField, "translate(encode({0}, 'base64'), chr(10), '')"),
    (models.GenericIPAddressField, "{0}"),
    (models.FileField, "{0}"),
    (models.FilePathField, "{0}"),
    (models.CharField, "{0}"),
    (models.TextField, "{0}"),
]


class _Line(models.Func):
    """The image of a row as JSON text."""

    output_field = models.TextField()

    def __init__(self, columns: tuple[tuple[str, str, str], ...]) -> None:
        self.columns = columns
        super().__init__(*(models.F(attname) for _, attname, _ in columns))

    def as_sql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """A subquery of one row, made of the row's columns."""
        parts, params = [], []
        for (name, _, template), expression in zip(self.columns, self.get_source_expressions(), strict=True):
            sql, values = compiler.compile(expression)
            parts.append(f"{template.format(sql)} AS {connection.ops.quote_name(name)}")
            params.extend(list(values) * template.count("{0}"))
        return f"(SELECT row_to_json(cqrs_row)::text FROM (SELECT {', '.join(parts)}) cqrs_row)", params


@cache
def _columns(model: type[models.Model]) -> tuple[tuple[str, str, str], ...] | None:
    """Name, attribute name and SQL of what travels; None where PostgreSQL cannot write one of the fields."""
    columns = []
    for field in images.replicated_fields(model):
        values = serialization.value_field(field)
        sql = next((sql for cls, sql in _SQL if isinstance(values, cls)), None)
        if sql is None or not serialization.is_builtin(values):
            return None
        if isinstance(values, models.DateTimeField) and not settings.USE_TZ:
            return None
        columns.append((field.name, field.attname, sql))
    return tuple(columns)


def are_possible(model: Any, vendor: str) -> bool:
    """Whether the rows of a model can be read as lines: its columns are all that travels, and can be written."""
    is_plain = images.is_plain(model) and not links.replicated(model)
    return vendor == "postgresql" and is_plain and _columns(model) is not None


def read(queryset: models.QuerySet) -> list[tuple[Any, int, str]]:
    """Primary key, revision and line of each row of a queryset for which they are possible."""
    columns = _columns(queryset.model)  # type: ignore[arg-type]
    assert columns is not None
    return list(queryset.values_list("pk", REVISION_FIELD, _Line(columns)))
