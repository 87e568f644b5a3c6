"""The two servers as the benchmark sees them: databases to fill and empty, queues to fill, count and drain."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
import psycopg

from benchmarks import environment as env

#: Columns of the replicated tables on both sides, and values of row ``g`` for each.
_COLUMNS = {
    "id": "g", "name": "'person ' || g", "email": "'person' || g || '@example.com'", "balance": "g / 100.0",
    "is_active": "true", "joined": "now()", "note": "repeat('n', 80)", "cqrs_revision": "0", "cqrs_updated": "now()",
}  # fmt: skip
_PLAIN_COLUMNS = {name: value for name, value in _COLUMNS.items() if not name.startswith("cqrs_")}


def wait_for(condition: Callable[[], Any], seconds: float, what: str, *, step: float = 0.05) -> Any:
    """Poll until the condition holds; raises ``TimeoutError`` with ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{env.LIBRARY}: {what} did not happen within {seconds} s.")
        time.sleep(step)


# --- databases -----------------------------------------------------------------------------------------------------


def connect(name: str) -> psycopg.Connection[Any]:
    """A connection to a database, in autocommit."""
    return psycopg.connect(dbname=name, autocommit=True, **env.postgresql())  # type: ignore[arg-type]


def side(name: str) -> psycopg.Connection[Any]:
    """A connection to the database of the ``master`` or the ``replica`` service."""
    return connect(env.database_name(name))


def value(connection: psycopg.Connection[Any], sql: str, *params: Any) -> Any:
    """The one value that a query gives; None where it finds no row."""
    row = connection.execute(sql, params or None).fetchone()
    return None if row is None else row[0]


def create_databases() -> None:
    """Make the databases of this library anew, without tables."""
    with connect("postgres") as server:
        for name in map(env.database_name, ("master", "replica")):
            server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            server.execute(f'CREATE DATABASE "{name}"')


def drop_databases() -> None:
    """Remove the databases of this library."""
    with connect("postgres") as server:
        for name in map(env.database_name, ("master", "replica")):
            server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def empty(*sides: str) -> None:
    """Empty all tables of the services, those of the library included."""
    for name in sides:
        with side(name) as connection:
            rows = connection.execute(
                "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
                " AND tablename <> 'django_migrations'"
            ).fetchall()
            connection.execute(f"TRUNCATE {', '.join(row[0] for row in rows)} RESTART IDENTITY CASCADE")


def fill(name: str, table: str, rows: int) -> None:
    """Put rows 1 to ``rows`` into a table at revision 0, past the library."""
    columns = _PLAIN_COLUMNS if table.startswith("plain_") else _COLUMNS
    with side(name) as connection:
        connection.execute("SET session_replication_role = replica")  # or triggers would capture them
        connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(columns.values())}"
            " FROM generate_series(1, %s) g",
            (rows,),
        )
        connection.execute(f"VACUUM ANALYZE {table}")


def outbox_size(connection: psycopg.Connection[Any]) -> int:
    """Changes that wait in the master's outbox; the peer has none."""
    if env.LIBRARY != env.OURS:
        return 0
    return value(connection, "SELECT count(*) FROM django_cqrs_celery_outboxmessage WHERE status = 0")


# --- broker --------------------------------------------------------------------------------------------------------


class Broker:
    """A connection to RabbitMQ, with the verbs that the measures need."""

    def __init__(self) -> None:
        address = urlsplit(env.AMQP_URL)
        self.connection = amqp.Connection(
            f"{address.hostname}:{address.port or 5672}", userid=unquote(address.username or "guest"),
            password=unquote(address.password or "guest"), virtual_host=unquote(address.path[1:]) or "/",
        )  # fmt: skip
        self.connection.connect()
        self.channel = self.connection.channel()

    def _declared(self, queue: str) -> Any:
        try:
            return self.channel.queue_declare(queue, passive=True)
        except amqp.exceptions.NotFound:
            self.channel = self.connection.channel()
            return None

    def ready(self, queue: str = env.QUEUE) -> int:
        """Messages that wait in a queue."""
        found = self._declared(queue)
        return found.message_count if found else 0

    def settled(self) -> int:
        """Messages that wait in the queue, once their number stands still; else 0."""
        count = self.ready()
        time.sleep(0.5)
        return count if self.ready() == count else 0

    def consumers(self, queue: str = env.QUEUE) -> int:
        """Consumers of a queue."""
        found = self._declared(queue)
        return found.consumer_count if found else 0

    def purge(self) -> None:
        """Empty the queues of this library."""
        for queue in (env.QUEUE, env.DEAD_LETTERS):
            if self._declared(queue):
                self.channel.queue_purge(queue)

    def remove(self) -> None:
        """Delete the queues and exchanges of this library."""
        for queue in (env.QUEUE, env.DEAD_LETTERS):
            if self._declared(queue):
                self.channel.queue_delete(queue)
        self.channel.exchange_delete(env.EXCHANGE)

    def drain(self, count: int, path: Path) -> None:
        """Move messages from the queue into a file, one a line."""
        got = 0
        with path.open("w") as file:

            def keep(message: Any) -> None:
                nonlocal got
                got += 1
                body = message.body if isinstance(message.body, bytes) else message.body.encode()
                text = base64.b64encode(body).decode()
                line = [message.delivery_info["routing_key"], dict(message.properties), text]
                file.write(json.dumps(line, default=str) + "\n")

            tag = self.channel.basic_consume(env.QUEUE, no_ack=True, callback=keep)
            while got < count:
                self.connection.drain_events(timeout=30)
            self.channel.basic_cancel(tag)

    def publish(self, lines: Iterable[str]) -> int:
        """Publish what ``drain`` kept, as it was; returns the number of messages."""
        count = 0
        for key, properties, body in map(json.loads, lines):
            message = amqp.Message(base64.b64decode(body), **properties)
            self.channel.basic_publish(message, exchange=env.EXCHANGE, routing_key=key)
            count += 1
        wait_for(lambda: self.ready() >= count, 60, f"{count} messages in the queue")
        return count

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


@contextmanager
def broker() -> Iterator[Broker]:
    """A connection to RabbitMQ for a while."""
    opened = Broker()
    try:
        yield opened
    finally:
        opened.close()
