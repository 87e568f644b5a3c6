"""Empty the databases between two tests, in milliseconds.

Django's own flush truncates every table of each database and makes content types and permissions anew; nearly all
tables are empty after a test, and none of these tests changes the rest.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from django.db import connections, transaction
from django.test import TransactionTestCase

from django_cqrs_celery.models import OutboxMessage

#: What ``migrate`` has filled.
KEPT = {"django_migrations", "django_content_type", "auth_permission"}


def install() -> None:
    """Let every test that commits end this way."""
    TransactionTestCase._fixture_teardown = _empty_all  # type: ignore[method-assign]


def _empty_all(case: Any) -> None:
    for alias in case._databases_names(include_mirrors=False):
        empty(alias)


def empty(alias: str) -> None:
    """Delete the rows of all tables that have some."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        tables = _filled(cursor, alias)
        if not tables:
            return
        before, after = {
            # Neither keys nor triggers of a test's models have a say in it.
            "postgresql": ("SET session_replication_role = replica", "SET session_replication_role = DEFAULT"),
            "mysql": ("SET FOREIGN_KEY_CHECKS = 0", "SET FOREIGN_KEY_CHECKS = 1"),
            "sqlite": ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON"),
        }[connection.vendor]
        cursor.execute(before)
        try:
            # The outbox comes last: elsewhere than on PostgreSQL triggers note these deletes there.
            last = OutboxMessage._meta.db_table
            with transaction.atomic(using=alias):
                for table in [*(name for name in tables if name != last), *(n for n in _tables(alias) if n == last)]:
                    cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")
        finally:
            cursor.execute(after)


@cache
def _tables(alias: str) -> tuple[str, ...]:
    return tuple(sorted(set(connections[alias].introspection.django_table_names(only_existing=True)) - KEPT))


def _filled(cursor: Any, alias: str) -> list[str]:
    quote = connections[alias].ops.quote_name
    asked = [f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {quote(name)})" for name in _tables(alias)]
    if not asked:
        return []
    if connections[alias].vendor == "mysql":
        asked = [text.replace("' WHERE", "' FROM DUAL WHERE") for text in asked]
    cursor.execute(" UNION ALL ".join(asked))
    return [name for (name,) in cursor.fetchall()]
