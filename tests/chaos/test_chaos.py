"""The short form: some faults with one seed each, and the proof that the checker would find losses.

The long form, every fault with several seeds, is ``make chaos``.
"""

from __future__ import annotations

import pytest

from tests import services
from tests.chaos import ledger, runner
from tests.chaos.faults import FAULTS
from tests.chaos.stage import REPLICAS, Options, stage
from tests.integration.harness import wait_until

SOME = [
    "master killed after the commit, before dispatch",
    "relay killed while it holds a claim",
    "pool process killed after the rows are written",
    "worker killed after the commit, before ack",
    "link to the broker cut",
    "connections of the databases terminated",
]


@pytest.fixture(scope="module")
def system(tmp_path_factory, vhost):
    services.require("rabbitmq", "postgresql")
    with stage(Options(tmp_path_factory.mktemp("chaos"), vhost)) as built:
        yield built


@pytest.mark.parametrize("name", SOME)
def test_nothing_is_lost(system, name):
    row = runner.run(system, FAULTS[name], seed=1)
    assert row.committed > 50
    assert row.is_well, runner.line(row)


def test_nothing_is_lost_by_writers_that_dispatch_themselves(tmp_path, vhost):
    services.require("rabbitmq", "postgresql")
    with stage(Options(tmp_path, vhost, dispatch="on_commit")) as built:
        row = runner.run(built, FAULTS["master killed after the commit, before dispatch"], seed=2)
    assert row.committed > 50
    assert row.is_well, runner.line(row)


@pytest.mark.parametrize(
    ("cheat", "name"), [("acks", "process group of a worker killed"), ("outbox", "link to the broker cut")]
)
def test_losses_would_be_found(tmp_path, vhost, cheat, name):
    """With acknowledgements moved before the commit, or without the outbox, the same run reports losses."""
    services.require("rabbitmq", "postgresql")
    with stage(Options(tmp_path, vhost, cheat=cheat)) as built:
        row = runner.run(built, FAULTS[name], seed=1, deadline=8)
    assert row.lost > 0
    assert not row.is_well


def test_a_row_that_goes_back_is_found(system):
    """Also if it comes forward again; but not what a transaction has taken back itself."""
    system.begin()
    writes = "INSERT INTO chaos_history (tbl, pk, op, revision, token, tx) VALUES ('event', 'x', '{}', {}, 1, {})"
    for write in (("INSERT", 0, 1), ("UPDATE", 1, 2), ("DELETE", 1, 3), ("INSERT", 0, 4), ("DELETE", 0, 4)):
        ledger.execute(system.replica_urls[0], writes.format(*write))
    assert ledger.examine(system.master_url, system.replica_urls, 10**9).stale == 0
    for write in (("INSERT", 3, 5), ("UPDATE", 2, 6), ("UPDATE", 3, 7)):
        ledger.execute(system.replica_urls[0], writes.format(*write))
    assert ledger.examine(system.master_url, system.replica_urls, 10**9).stale == 1
    system.begin()


def test_three_replicas_fail_a_change_and_none_disturbs_another(tmp_path, vhost):
    """With three retries each has four attempts at most, and nothing of it comes to another's queue."""
    services.require("rabbitmq", "postgresql")
    settings = {"CQRS_MAX_RETRIES": 3, "CQRS_RETRY_DELAY": 0.5}
    with stage(Options(tmp_path, vhost, dispatch="relay", relays=False, replica_settings=settings)) as built:
        for url in built.replica_urls:
            ledger.execute(url, "INSERT INTO chaos_refuse VALUES (true)")
        built.master.run("for n in range(1, 5):\n    Event.objects.create(title='refused', number=7 * n)")
        relay = built.master.manage("cqrs_relay")
        assert relay.popen.wait(60) == 0
        assert "4 changes published in 1 messages." in relay.log()
        relay.kill()
        dead = "SELECT count(*) FROM django_cqrs_celery_deadletter WHERE status = 'dead'"
        for url in built.replica_urls:
            wait_until(lambda url=url: ledger.value(url, dead) == 4, "all four are dead letters")
        assert {name: built.counted(name, "failures") for name in REPLICAS} == dict.fromkeys(REPLICAS, 4 * 4)
        assert {name: built.counted(name, "messages") for name in REPLICAS} == dict.fromkeys(REPLICAS, 1)
        assert [built.broker.count(built.queue(name)) for name in REPLICAS] == [0, 0, 0]
