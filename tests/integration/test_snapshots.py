"""New replicas that fill themselves during writes and kills: PostgreSQL to MariaDB and to SQLite.

The short form runs with every test run. The long form, on a quiet machine::

    CQRS_SNAPSHOT_ROWS=100000 pytest tests/integration/test_snapshots.py -s
"""

from __future__ import annotations

import json
import os
import time

import pytest

from tests import services
from tests.integration import harness
from tests.integration.harness import wait_until
from tests.integration.system import system
from tests.integration.test_healing import AGE, FILL, WRITER, say

ROWS = int(os.environ.get("CQRS_SNAPSHOT_ROWS", "2400"))
PATIENCE = harness.DEADLINE + ROWS / 300
#: What the writer does not touch was there before the replicas and has to come by the snapshot.
UNTOUCHED = ROWS - 399

pytestmark = pytest.mark.timeout(600 + ROWS / 50)

LOOK = """
state = SyncState.objects.filter(cqrs_id="city", mode="snapshot").first()
complete = bool(state and state.finished_at and state.position is None)
result = [complete, model_of.objects.filter(id__gte=400).count()]
"""


@pytest.fixture
def fresh(tmp_path, vhost):
    services.require("postgresql", "mariadb", "rabbitmq")
    engines = {"shop": "postgresql", "search": "mariadb", "stats": "sqlite"}
    with system(tmp_path, engine=engines, broker="rabbitmq", vhost=vhost, declared_by_master=False) as built:
        yield built


def look(project):
    """Whether a replica calls its snapshot complete, and how many of the untouched rows it has."""
    model = {"search": "City", "stats": "Place"}[project.name]
    return project.run(LOOK.replace("model_of", model))


def test_new_replicas_fill_themselves_during_writes_and_kills(fresh):
    master, replicas = fresh.master, fresh.replicas
    master.run(FILL + "OutboxMessage.objects.all().delete()\n", count=ROWS)
    master.run(AGE, models=["Country", "City"])
    workers = {}

    def start(name, rate=max(300, ROWS // 20)):
        if name == "shop":
            queue = master.env["TESTBED_DEFAULT_QUEUE"]
            pace = {"TESTBED_EXTRA": json.dumps({"sync_rate": rate})}
            workers[name] = master.worker("-c", "2", queues=queue, ready=False, **pace)
        else:
            workers[name] = replicas[name].worker("-c", "1", ready=False, TESTBED_SNAPSHOTS="1")

    writer = master.new_driver()
    try:
        writer.send(WRITER, seconds=max(10, ROWS / 2000))
        for name in ("shop", "search", "stats"):
            start(name, rate=ROWS // 60)  # a minute to kill it in the middle, on whatever machine
        wait_until(lambda: look(replicas["search"])[1] > 0, "the first rows are on search", PATIENCE, step=0.02)
        begun = time.monotonic()
        for name in ("shop", "search"):
            workers[name].kill()
        is_complete, rows = look(replicas["search"])
        assert not is_complete and rows < UNTOUCHED
        for name in ("shop", "search"):
            start(name)
        for name, replica in replicas.items():

            def complete(replica=replica, name=name):
                is_complete, rows = look(replica)
                assert rows == UNTOUCHED or not is_complete, f"{name} is called complete with {rows} of {UNTOUCHED}"
                return is_complete

            wait_until(complete, f"the snapshot of {name} is complete", PATIENCE, step=0.2)
            say(f"{ROWS} rows: {name} complete {time.monotonic() - begun:.1f} s after the kills")
        say(f"{writer.answer()[0]} writes meanwhile")
        fresh.wait_equal(deadline=PATIENCE)
    finally:
        writer.kill()
        harness.stop_all(list(workers.values()))
