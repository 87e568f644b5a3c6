"""Digests computed by the database: PostgreSQL and MariaDB or MySQL, for whole numbers, UUIDs and texts as keys.

SQLite has no hash of its own; there, and for other types of keys, ``digests`` computes in Python, as for a model whose
rows have to be asked one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connections, models

from django_cqrs_celery import serialization

_DIGITS = 15


@dataclass(frozen=True)
class Sql:
    """How one engine writes what a digest needs of a subquery with ``cqrs_key`` and ``cqrs_rev``."""

    using: str
    #: Text of the key, as it travels.
    text: str

    def aggregate(self, rows: Any, scheme: Any) -> Iterator[tuple[int, int, int]]:
        """Bucket, number of rows and sum of their hashes."""
        inner, params = rows.query.get_compiler(self.using).as_sql()
        value = self._hash(self._concat(self.text, "':'", "cqrs_rev"), _DIGITS)
        sql = (
            f"SELECT {self._bucket(scheme)} AS cqrs_bucket, COUNT(*), SUM({value})"
            f" FROM ({inner}) cqrs_rows GROUP BY 1"
        )
        with connections[self.using].cursor() as cursor:
            cursor.execute(sql, params)
            for bucket, count, total in cursor.fetchall():
                yield int(bucket), int(count), int(total)

    def _bucket(self, scheme: Any) -> str:
        # Whole numbers of this process, not parameters: some drivers quote those.
        start, width, last = int(scheme.start), int(scheme.width), int(scheme.buckets) - 1
        if not width:
            return self._modulo(self._hash(self.text, 8), last + 1)
        return f"LEAST(GREATEST({self._divide(f'({self._number()} - ({start}))', width)}, 0), {last})"

    def _number(self) -> str:
        raise NotImplementedError

    def _hash(self, text: str, digits: int) -> str:
        raise NotImplementedError

    def _concat(self, *parts: str) -> str:
        raise NotImplementedError

    def _divide(self, number: str, by: int) -> str:
        raise NotImplementedError

    def _modulo(self, number: str, by: int) -> str:
        raise NotImplementedError


class _PostgreSQL(Sql):
    def _number(self) -> str:
        return "cqrs_key::bigint"

    def _hash(self, text: str, digits: int) -> str:
        return f"('x' || substr(md5(convert_to({text}, 'UTF8')), 1, {digits}))::bit({digits * 4})::bigint"

    def _concat(self, *parts: str) -> str:
        return "(" + " || ".join(f"{part}::text" for part in parts) + ")"

    def _divide(self, number: str, by: int) -> str:
        return f"({number} / {by})"

    def _modulo(self, number: str, by: int) -> str:
        return f"mod({number}, {by})"


class _MySQL(Sql):
    def _number(self) -> str:
        return "CAST(cqrs_key AS SIGNED)"

    def _hash(self, text: str, digits: int) -> str:
        return f"CAST(CONV(SUBSTR(MD5({text}), 1, {digits}), 16, 10) AS UNSIGNED)"

    def _concat(self, *parts: str) -> str:
        return f"CONCAT({', '.join(parts)})"

    def _divide(self, number: str, by: int) -> str:
        return f"({number} DIV {by})"

    def _modulo(self, number: str, by: int) -> str:
        return f"({number} MOD {by})"


def for_model(model: Any, using: str) -> Sql | None:
    """The SQL of a model's digests; None where they have to be computed in Python."""
    field = serialization.value_field(model._meta.pk)
    connection = connections[using]
    if not serialization.is_builtin(field):
        return None
    if connection.vendor == "postgresql":
        if isinstance(field, (models.IntegerField, models.UUIDField, models.CharField, models.TextField)):
            return _PostgreSQL(using, "cqrs_key::text")
    elif connection.vendor == "mysql":
        if isinstance(field, models.IntegerField):
            return _MySQL(using, "CONVERT(CAST(cqrs_key AS CHAR) USING utf8mb4)")
        if isinstance(field, (models.CharField, models.TextField)):
            return _MySQL(using, "CONVERT(cqrs_key USING utf8mb4)")
        if isinstance(field, models.UUIDField):
            return _MySQL(using, _uuid_text(connection))
    return None


def _uuid_text(connection: Any) -> str:
    if connection.features.has_native_uuid_field:
        return "CONVERT(CAST(cqrs_key AS CHAR) USING utf8mb4)"
    parts = ", ".join(f"SUBSTR(cqrs_key, {start}, {length})" for start, length in _UUID_PARTS)
    return f"LOWER(CONCAT_WS('-', {parts}))"


_UUID_PARTS = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
