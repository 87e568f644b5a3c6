"""``CQRS_QUERY_TIMEOUT``: the longest time that one statement may take while changes are applied.

A statement that runs into it is an error of the infrastructure: the batch is tried again, nothing is set aside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connections

from django_cqrs_celery import conf

#: Error codes of a statement that took too long: PostgreSQL's SQLSTATE, MariaDB's and MySQL's numbers.
_TOO_LONG = {"57014", 1969, 3024}


@contextmanager
def limited(using: str) -> Iterator[None]:
    """Limit the statements of a database connection by the settings, and log those that ran into the limit."""
    milliseconds = conf.query_timeout()
    if not milliseconds:
        yield
        return
    connection = connections[using]
    _set(connection, milliseconds)
    try:
        if conf.log_timed_out_queries():
            with connection.execute_wrapper(_log_too_long):
                yield
        else:
            yield
    finally:
        if connection.is_usable():
            _set(connection, None)


def _set(connection: Any, milliseconds: int | None) -> None:
    """Limit the statements of a session; with None it gets back what the server or the user's role gives it."""
    value: float | None = milliseconds
    if connection.vendor == "postgresql":
        name = "statement_timeout"
    elif connection.vendor == "mysql" and connection.mysql_is_mariadb:
        name, value = "SESSION max_statement_time", milliseconds and milliseconds / 1000
    elif connection.vendor == "mysql":
        name = "SESSION MAX_EXECUTION_TIME"
    else:
        return
    with connection.cursor() as cursor:
        if value is None:
            cursor.execute(f"SET {name} = DEFAULT")
        else:
            cursor.execute(f"SET {name} = %s", [value])


def _log_too_long(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
    try:
        return execute(sql, params, many, context)
    except OperationalError as error:
        cause = error.__cause__
        if {getattr(cause, "sqlstate", None), *error.args[:1]} & _TOO_LONG:
            # The statement as it is written, never its parameters: they are the payload.
            logging.getLogger(conf.query_logger()).error(
                "A statement took longer than CQRS_QUERY_TIMEOUT: %s", sql[:2000], extra={"action": "cqrs_timeout"}
            )
        raise
