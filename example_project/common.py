"""What the three services share: where their databases and their broker are, read from the environment.

``BROKER_URL``: any kombu URL. ``DATABASE_URL``: ``postgres://user:password@host:port`` or ``mysql://…``; each service
has a database of its own there, ``cqrs_demo_<service>``. Without it each service has an SQLite file in ``.demo/``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("master", "search", "stats")

#: Begins all names on servers that others may use too: exchange, queues, databases.
NAME = os.environ.get("DEMO_NAME", "cqrs_demo")
EXCHANGE = NAME
MASTER_QUEUE = f"{NAME}_master"
#: Queue of each replica service.
REPLICA_QUEUES = {"search": f"{NAME}_search", "stats": f"{NAME}_stats"}

ENGINES = {
    "postgres": "django.db.backends.postgresql",
    "postgresql": "django.db.backends.postgresql",
    "mysql": "django.db.backends.mysql",
    "mariadb": "django.db.backends.mysql",
}


def state_dir() -> Path:
    """Directory of everything that a run leaves behind: SQLite files and logs."""
    return Path(os.environ.get("DEMO_DIR", ROOT / ".demo"))


def broker_url() -> str:
    """URL of the broker; ``make demo`` sets it to that of the embedded one when you do not."""
    return os.environ.get("BROKER_URL") or "amqp://guest:guest@127.0.0.1:5672//"


def database_name(service: str) -> str:
    """Name of a service's database on a database server."""
    return f"{NAME}_{service}"


def databases(service: str) -> dict[str, dict[str, Any]]:
    """``DATABASES`` of a service."""
    url = os.environ.get("DATABASE_URL")
    return {"default": from_url(url, database_name(service)) if url else sqlite(state_dir() / f"{service}.sqlite3")}


def sqlite(path: Path) -> dict[str, Any]:
    """An SQLite file that several processes write: each waits for its turn instead of failing."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def from_url(url: str, name: str) -> dict[str, Any]:
    """A database on the server that a URL names. Raises ``ValueError`` for a URL that cannot be used."""
    parts = urlsplit(url)
    engine = ENGINES.get(parts.scheme)
    if engine is None:
        raise ValueError(f"DATABASE_URL begins with {parts.scheme!r}; known are: {', '.join(sorted(ENGINES))}.")
    if engine.endswith("mysql"):
        _use_pymysql()
    settings = {
        "ENGINE": engine,
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "127.0.0.1",
        "PORT": str(parts.port or ""),
    }
    return settings | ({"OPTIONS": {"charset": "utf8mb4"}} if engine.endswith("mysql") else {})


def _use_pymysql() -> None:
    """Let PyMySQL, which needs no compiler, stand in for the mysqlclient that Django asks for."""
    import pymysql

    pymysql.version_info = (2, 2, 1, "final", 0)
    pymysql.install_as_MySQLdb()
