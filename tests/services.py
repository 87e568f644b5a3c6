"""The servers that tests talk to: where they are, and whether they are there.

A missing one skips a test on a laptop, with its reason, and fails it where ``CI`` is set.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from urllib.parse import urlsplit

import pytest

AMQP_URL = os.environ.get("CQRS_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
REDIS_URL = os.environ.get("CQRS_TEST_REDIS_URL", "redis://127.0.0.1:6379/9")
POSTGRESQL_URL = os.environ.get("CQRS_TEST_POSTGRESQL_URL", "postgres://postgres@127.0.0.1:5432")
MARIADB_URL = os.environ.get("CQRS_TEST_MARIADB_URL", "mysql://root@127.0.0.1:3306")

#: Whether this run's changes are captured by triggers: ``CQRS_TEST_CAPTURE=trigger``.
BY_TRIGGER = os.environ.get("CQRS_TEST_CAPTURE") == "trigger"

URLS = {"rabbitmq": AMQP_URL, "redis": REDIS_URL, "postgresql": POSTGRESQL_URL, "mariadb": MARIADB_URL}
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


@cache
def is_up(name: str) -> bool:
    """Whether something answers at the address of a service."""
    if name == "sqlite":
        return True
    address = urlsplit(URLS[name])
    try:
        socket.create_connection((address.hostname or "127.0.0.1", address.port or 0), timeout=2).close()
    except OSError:
        return False
    return True


def require(*names: str) -> None:
    """Skip the test, or fail it in CI, where one of the services is away."""
    for name in names:
        if not is_up(name):
            reason = f"{name} does not answer at {URLS[name]}"
            if IN_CI:
                pytest.fail(f"{reason}, and CI needs it")
            pytest.skip(reason)


def database(engine: str, name: str) -> dict[str, object]:
    """Django's settings of a database on one of the engines."""
    if engine == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{name}.sqlite3",
            "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
            "TEST": {"NAME": f"/tmp/{name}.{os.getpid()}.sqlite3"},
        }
    address = urlsplit(URLS[engine])
    own = f"test_{name}_{os.getpid()}"  # so that two runs on one machine do not take each other's
    common = {
        "NAME": name, "HOST": address.hostname, "PORT": str(address.port), "USER": address.username or "",
        "PASSWORD": address.password or "",
    }  # fmt: skip
    if engine == "postgresql":
        return {"ENGINE": "django.db.backends.postgresql", **common, "TEST": {"NAME": own}}
    return {
        "ENGINE": "django.db.backends.mysql",
        **common,
        "OPTIONS": {"charset": "utf8mb4"},
        "TEST": {"NAME": own, "CHARSET": "utf8mb4", "COLLATION": "utf8mb4_bin"},
    }
