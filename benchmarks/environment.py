"""What this process measures, read from its environment; the same names hold for every process of a run."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent

#: The package under test: ``django_cqrs_celery`` or ``dj_cqrs``.
OURS, PEER = "django_cqrs_celery", "dj_cqrs"
LIBRARY = os.environ.get("BENCH_LIBRARY", OURS)
SIDE = os.environ.get("BENCH_SIDE", "master")
#: Databases, exchange and queues of a run begin with it.
PREFIX = os.environ.get("BENCH_PREFIX", "cqrs_bench")
AMQP_URL = os.environ.get("BENCH_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
POSTGRESQL_URL = os.environ.get("BENCH_POSTGRESQL_URL", "postgres://postgres@127.0.0.1:5432")
MARIADB_URL = os.environ.get("BENCH_MARIADB_URL", "mysql://root@127.0.0.1:3306")
#: Where an address is asked for at which no broker answers.
NO_BROKER = "amqp://guest:guest@127.0.0.1:9//"

NAME = f"{PREFIX}_{LIBRARY}"
#: Type of the queue where it is not the default; such a queue has a name and an exchange of its own.
QUEUE_TYPE = os.environ.get("BENCH_QUEUE_TYPE", "")
QUEUE = f"{NAME}_{QUEUE_TYPE}" if QUEUE_TYPE else NAME
EXCHANGE = f"{QUEUE}_changes"
DEAD_LETTERS = f"dead_letter_{QUEUE}"


def database_name(side: str) -> str:
    """Name of the database of the master or the replica service."""
    return f"{NAME}_{side}"


def postgresql() -> dict[str, object]:
    """Address of the PostgreSQL server."""
    address = urlsplit(POSTGRESQL_URL)
    return {
        "host": address.hostname or "127.0.0.1", "port": address.port or 5432, "user": address.username or "postgres",
        "password": address.password or "",
    }  # fmt: skip


def database(engine: str, name: str) -> dict[str, object]:
    """Django's settings of a database on one of the engines, which Django creates as one of tests."""
    if engine == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3", "NAME": f"{name}.sqlite3",
            "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
            "TEST": {"NAME": str(Path(tempfile.gettempdir()) / f"{name}.{os.getpid()}.sqlite3")},
        }  # fmt: skip
    address = urlsplit(POSTGRESQL_URL if engine == "postgresql" else MARIADB_URL)
    common = {
        "NAME": name, "HOST": address.hostname or "127.0.0.1", "PORT": str(address.port or ""),
        "USER": address.username or "", "PASSWORD": address.password or "",
    }  # fmt: skip
    test = {"NAME": f"{name}_{os.getpid()}"}
    if engine == "postgresql":
        return {"ENGINE": "django.db.backends.postgresql", **common, "TEST": test}
    return {
        "ENGINE": "django.db.backends.mysql", **common, "OPTIONS": {"charset": "utf8mb4"},
        "TEST": {**test, "CHARSET": "utf8mb4", "COLLATION": "utf8mb4_bin"},
    }  # fmt: skip


def of_process(*, library: str = LIBRARY, side: str = SIDE, **more: str) -> dict[str, str]:
    """Environment of a process of the run."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return {
        **os.environ, "BENCH_LIBRARY": library, "BENCH_SIDE": side, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "benchmarks.service.settings", **more,
    }  # fmt: skip


def command(*arguments: str) -> list[str]:
    """Command line of a Django command of the service, in the environment of this process."""
    return [sys.executable, "-m", "django", *arguments]
