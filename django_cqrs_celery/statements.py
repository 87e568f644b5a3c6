"""What passes a database connection while hooks are called change by change.

Each change has a savepoint, which costs two round trips more than its UPDATE. So on PostgreSQL savepoints are held back
and go along with the next write of the model's table. And whatever is written past that, by code of the project, makes
rows worthless that were read ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from django_cqrs_celery.models import DeadLetter, OutboxMessage, Tombstone
from django_cqrs_celery.preloaded import Rows

_BEGIN, _RELEASE, _ROLLBACK = "SAVEPOINT ", "RELEASE ", "ROLLBACK TO "


class Watch:
    """An execute wrapper of Django, see ``connection.execute_wrapper``."""

    def __init__(self, connection: Any, model: Any, rows: Rows | None) -> None:
        self.connection, self.rows = connection, rows
        quote = connection.ops.quote_name
        table = quote(model._meta.db_table)
        self.pk_field = model._meta.pk
        self.insert, self.update = f"INSERT INTO {table} ", f"UPDATE {table} SET "
        self.one_row = f" WHERE {table}.{quote(model._meta.pk.column)} = %s"
        self.ours = tuple(
            f"{verb} {quote(own._meta.db_table)} "
            for verb in ("INSERT INTO", "UPDATE", "DELETE FROM") for own in (DeadLetter, Tombstone, OutboxMessage)
        )  # fmt: skip
        self.reads = f" FROM {quote('x')[0]}"
        self.pending: list[str] = []
        self.holds_back = _takes_many(connection)
        self.pk: Any = None

    def expect(self, pk: Any) -> None:
        """Note whose row is written next."""
        self.pk = self.pk_field.get_db_prep_value(pk, self.connection)

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Execute a statement now, later, or not at all; called by Django."""
        sql = str(sql)
        if params is None and _BEGIN in sql and self._savepoint(sql):
            return None if self.holds_back else execute(sql, params, many, context)
        own_write = not many and self._is_write_of_row(sql, params)
        if not own_write and self.rows is not None and not self._is_harmless(sql):
            self.rows.forget()
        if not self.pending:
            return execute(sql, params, many, context)
        if not own_write:
            self.flush()
            return execute(sql, params, many, context)
        held, self.pending = self.pending, []
        result = execute("; ".join([*held, sql]), params, many, context)
        for _ in held:
            context["cursor"].nextset()
        return result

    def _savepoint(self, sql: str) -> bool:
        """Hold a statement about savepoints back, or find that it is needless; False where it must be executed now."""
        if not sql.startswith((_BEGIN, _RELEASE, _ROLLBACK)):
            return False
        if not self.holds_back:
            if sql.startswith(_ROLLBACK) and self.rows is not None:
                self.rows.forget()
            return True
        begin = sql[sql.index(_BEGIN) :]
        if sql.startswith(_ROLLBACK):
            if self.rows is not None:
                self.rows.forget()
            if begin in self.pending:  # it has not even begun
                del self.pending[self.pending.index(begin) + 1 :]
                return True
            self.pending.clear()  # all of it was begun or ended within what is rolled back
            return False
        if sql.startswith(_RELEASE) and self.pending and self.pending[-1] == begin:
            self.pending.pop()
        else:
            self.pending.append(sql)
        return True

    def _is_write_of_row(self, sql: str, params: Any) -> bool:
        """Whether it is what ``save()`` of one instance writes, which is what is expected here."""
        if sql.startswith(self.insert):
            return " ON " not in sql
        return sql.startswith(self.update) and sql.endswith(self.one_row) and bool(params) and params[-1] == self.pk

    def _is_harmless(self, sql: str) -> bool:
        if sql.startswith("SELECT"):
            return self.reads in sql  # not a call of a function alone
        return sql.startswith((*self.ours, "SET CONSTRAINTS"))

    def flush(self) -> None:
        """Execute what was held back."""
        held, self.pending = self.pending, []
        if held:
            with self.connection.wrap_database_errors, self.connection.connection.cursor() as cursor:
                cursor.execute("; ".join(held))


def _takes_many(connection: Any) -> bool:
    """Whether a statement with parameters may be several: with psycopg 3, where it puts parameters in itself."""
    if connection.vendor != "postgresql" or connection.settings_dict["OPTIONS"].get("server_side_binding"):
        return False
    try:
        import psycopg
    except ImportError:
        return False
    return issubclass(connection.connection.cursor_factory, psycopg.ClientCursor)


@contextmanager
def watched(model: Any, using: str, rows: Rows | None) -> Iterator[Watch]:
    """Watch the connection while changes of a model go through its hooks."""
    connection = connections[using]
    watch = Watch(connection, model, rows)
    with connection.execute_wrapper(watch):
        yield watch
        watch.flush()
