"""Rows by their keys, read by the statement that the ORM would make; it is made once.

To build a queryset and its SQL takes several times the Python of the query itself, and a lone save's row is read each
time. The statement, the way values are bound, and the converters of what comes back are the ORM's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections, models

from django_cqrs_celery.managers import MasterManager

#: Attribute of a connection that holds the statements made for it.
_MADE = "_cqrs_statements"
_ONE_KEY = " IN (%s)"
#: Managers that ask for all rows, and nothing but the rows.
_ORDINARY = (models.Manager, MasterManager)


@dataclass(frozen=True)
class _Statement:
    """A SELECT up to its keys, and how the columns of its rows become Python values."""

    sql: str
    params: tuple[Any, ...]
    #: Positions of columns with converters; those get the value, the expression and the connection.
    converters: tuple[tuple[int, Sequence[Callable[..., Any]], Any], ...]


@dataclass(frozen=True)
class Read:
    """A query for some rows, which may be sent along with another one."""

    using: str
    sql: str
    params: list[Any]
    statement: _Statement

    def rows(self, fetched: Iterable[Sequence[Any]]) -> Iterable[Sequence[Any]]:
        """Rows of Python values of what the query gave."""
        if not self.statement.converters:
            return fetched
        return _converted(fetched, self.statement, connections[self.using])

    def execute(self) -> Iterable[Sequence[Any]]:
        """Ask for the rows."""
        with connections[self.using].cursor() as cursor:
            cursor.execute(self.sql, self.params)
            return self.rows(cursor.fetchall())


def by_keys(
    model: type[models.Model],
    keys: Sequence[Any],
    using: str,
    select: Callable[[models.QuerySet], models.QuerySet],
) -> Read | None:
    """The query for ``values_list`` of these primary keys, in no order; None where the queryset has to be asked.

    ``select``: makes a ``values_list`` of a queryset, the same one for each call with this model.
    """
    statement = _statement(model, keys, using, select)
    if statement is None:
        return None
    connection, key = connections[using], model._meta.pk
    limit = connection.features.max_query_params
    if limit and len(keys) > limit:
        return None
    params = [key.get_db_prep_value(value, connection) for value in keys]
    sql = f"{statement.sql} IN ({', '.join(['%s'] * len(keys))})"
    return Read(using, sql, [*statement.params, *params], statement)


def _converted(rows: Iterable[Sequence[Any]], statement: _Statement, connection: Any) -> Iterable[Sequence[Any]]:
    for row in map(list, rows):
        for position, converters, expression in statement.converters:
            value = row[position]
            for convert in converters:
                value = convert(value, expression, connection)
            row[position] = value
        yield row


def _statement(
    model: type[models.Model],
    keys: Sequence[Any],
    using: str,
    select: Callable[[models.QuerySet], models.QuerySet],
) -> _Statement | None:
    made = connections[using].__dict__.setdefault(_MADE, {})
    if model not in made:
        made[model] = _make(model, keys[0], using, select)
    return made[model]


def _make(
    model: type[models.Model], key: Any, using: str, select: Callable[[models.QuerySet], models.QuerySet]
) -> _Statement | None:
    manager: Any = model._base_manager
    if connections[using].vendor != "postgresql" or type(manager) not in _ORDINARY:
        return None  # a manager of the project's may ask for other rows each time
    compiler = select(manager.using(using).order_by().filter(pk__in=[key])).query.get_compiler(using)
    try:
        sql, params = compiler.as_sql()
    except EmptyResultSet:  # a key that no row can have
        return None
    bound = model._meta.pk.get_db_prep_value(key, connections[using])
    if not sql.endswith(_ONE_KEY) or params[-1] != bound or compiler.has_composite_fields(_columns(compiler)):
        return None
    converters = compiler.get_converters(_columns(compiler))
    return _Statement(
        sql.removesuffix(_ONE_KEY), tuple(params[:-1]),
        tuple((position, convert, expression) for position, (convert, expression) in converters.items()),
    )  # fmt: skip


def _columns(compiler: Any) -> list[Any]:
    return [column for column, *_ in compiler.select[: compiler.col_count]]
