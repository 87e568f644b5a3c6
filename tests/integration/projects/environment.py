"""What the three projects take from the environment, so that one set of projects serves every broker and database."""

from __future__ import annotations

import json
import os
from urllib.parse import urlsplit

EXCHANGE = os.environ.get("TESTBED_EXCHANGE", "testbed")
QUEUE = os.environ.get("TESTBED_QUEUE", "testbed")
QUEUE_TYPE = os.environ.get("TESTBED_QUEUE_TYPE", "quorum")
DISPATCH = os.environ.get("TESTBED_DISPATCH", "background")
#: Queues of the replicas, each with the CQRS_IDs that it gets.
REPLICAS = json.loads(os.environ.get("TESTBED_REPLICAS", "{}"))
BROKER_URL = os.environ.get("TESTBED_BROKER_URL", "memory://")
BROKER_OPTIONS = json.loads(os.environ.get("TESTBED_BROKER_OPTIONS", "{}"))
DEFAULT_QUEUE = os.environ.get("TESTBED_DEFAULT_QUEUE", "celery")
#: Who notices the master's changes; CQRS_TEST_CAPTURE says so for the whole run of tests.
CAPTURE = os.environ.get("CQRS_TEST_CAPTURE", "auto")
#: Whether workers ask for snapshots; tests of other things count messages.
SNAPSHOTS = bool(os.environ.get("TESTBED_SNAPSHOTS"))
#: More keys of CQRS, or of its parts, for one test.
EXTRA = json.loads(os.environ.get("TESTBED_EXTRA", "{}"))
#: Arguments of ``beat_schedule`` for digests.
SYNC = json.loads(os.environ.get("TESTBED_SYNC", '{"sync_seconds": null}'))


def database() -> dict[str, object]:
    """Django's settings of the project's database, from its address."""
    address = urlsplit(os.environ.get("TESTBED_DATABASE_URL", "sqlite:///testbed.sqlite3"))
    if address.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": address.path,
            "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
        }
    common = {
        "NAME": address.path.lstrip("/"), "HOST": address.hostname, "PORT": str(address.port),
        "USER": address.username or "", "PASSWORD": address.password or "",
    }  # fmt: skip
    if address.scheme == "mysql":
        import pymysql

        pymysql.install_as_MySQLdb()
        return {"ENGINE": "django.db.backends.mysql", **common, "OPTIONS": {"charset": "utf8mb4"}}
    return {"ENGINE": "django.db.backends.postgresql", **common}
