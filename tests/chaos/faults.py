"""The faults: each does its harm while the load is on, and returns when everything is up again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg

from tests.chaos import ledger
from tests.chaos.stage import REPLICAS, Stage
from tests.integration import servers
from tests.integration.harness import wait_until

Harm = Callable[[Stage, random.Random], None]


@dataclass(frozen=True)
class Fault:
    """A fault by name. ``needs``: what it takes beside a broker and a database (``tool``: rabbitmqctl; ``node``: a
    broker of its own, since it harms the whole of it). ``deletes``: whether its load deletes rows."""

    name: str
    harm: Harm
    needs: str = ""
    deletes: bool = True


FAULTS: dict[str, Fault] = {}


def fault(name: str, needs: str = "", deletes: bool = True) -> Callable[[Harm], Harm]:
    """Enter a function into the list of faults."""

    def enter(harm: Harm) -> Harm:
        FAULTS[name] = Fault(name, harm, needs, deletes)
        return harm

    return enter


def seconds(short: float, full: float) -> float:
    """How long an outage lasts, in the short and in the full form."""
    return full if os.environ.get("CQRS_CHAOS") == "full" else short


# --- the master's processes ------------------------------------------------------------------------------------------

#: Steps at which a process of the master is killed.
MASTER_STEPS = {
    "row_written": "after the row is written",
    "before_commit": "before the commit",
    "committed": "after the commit, before dispatch",
    "claimed": "while it holds a claim",
    "sent": "before the confirm",
    "confirmed": "after the confirm",
    "before_settle": "before the outbox row goes",
}


def _kill_writer(step: str) -> Harm:
    def harm(stage: Stage, dice: random.Random) -> None:
        for _ in range(2):
            stage.trap("writer", step)
            stage.replace_writers()

    return harm


for _step, _words in MASTER_STEPS.items():
    fault(f"master killed {_words}")(_kill_writer(_step))


def _kill_relay(step: str) -> Harm:
    def harm(stage: Stage, dice: random.Random) -> None:
        for _ in range(2):
            stage.trap("relay", step)
            stage.start_relay()

    return harm


for _step in ("claimed", "confirmed"):
    fault(f"relay killed {MASTER_STEPS[_step]}")(_kill_relay(_step))


# --- the workers' processes ------------------------------------------------------------------------------------------

#: Steps at which a process of a worker's pool is killed.
CHILD_STEPS = {
    "received": "after receive",
    "before_commit": "after the rows are written",
    "committed": "after the commit, before ack",
}


def _kill_child(step: str) -> Harm:
    def harm(stage: Stage, dice: random.Random) -> None:
        for name in dice.sample(REPLICAS, 2):
            stage.trap(name, step)

    return harm


for _step, _words in CHILD_STEPS.items():
    fault(f"pool process killed {_words}")(_kill_child(_step))


def _kill_main(step: str) -> Harm:
    def harm(stage: Stage, dice: random.Random) -> None:
        for name in dice.sample(REPLICAS, 2):
            stage.trap(name, step)
            stage.restore()

    return harm


for _step, _words in {"main_received": "after receive", "main_before_ack": "after the commit, before ack"}.items():
    fault(f"worker killed {_words}")(_kill_main(_step))


@fault("pool process killed while a dead letter is stored")
def _letter(stage: Stage, dice: random.Random) -> None:
    for name in dice.sample(REPLICAS, 2):
        ledger.execute(stage.urls[name], "INSERT INTO chaos_refuse VALUES (true)")
        stage.trap(name, "letter_written")
        stage.let_it_work(100)
        ledger.execute(stage.urls[name], "TRUNCATE chaos_refuse")


@fault("process group of a worker killed")
def _group(stage: Stage, dice: random.Random) -> None:
    for name in dice.sample(REPLICAS, 2):
        with _batches_stuck(stage, name):
            stage.let_it_work(50)
            stage.workers[name].kill()
        stage.restore()


@fault("worker asked to end and started again")
def _restart(stage: Stage, dice: random.Random) -> None:
    for name in dice.sample(REPLICAS, 2):
        assert stage.workers[name].stop(signal.SIGTERM) == 0
        stage.restore()


# --- the broker ------------------------------------------------------------------------------------------------------


@fault("connections closed by the broker", needs="tool")
def _closed(stage: Stage, dice: random.Random) -> None:
    for _ in range(2):
        stage.control("close_all_connections", "--vhost", stage.vhost or "/", "chaos")
        stage.let_it_work(100)


@fault("a replica's queue full", needs="tool")
def _full(stage: Stage, dice: random.Random) -> None:
    name = dice.choice(REPLICAS)
    with full_queue(stage, name):
        stage.let_it_work(400)
        time.sleep(seconds(5, 20))
    stage.restore()


@contextlib.contextmanager
def full_queue(stage: Stage, name: str) -> Iterator[None]:
    """While this lasts, a replica has no worker, and its queue takes no more than five messages."""
    where = ("-p", stage.vhost or "/")
    rule = (f"^{stage.queue(name)}$", '{"max-length":5,"overflow":"reject-publish"}')
    stage.control("set_policy", *where, "--apply-to", "queues", stage.queue(name), *rule)
    try:
        stage.workers[name].stop(signal.SIGTERM)
        wait_until(lambda: stage.broker.count(stage.queue(name)) >= 5, "the queue is full")
        yield
    finally:
        stage.control("clear_policy", *where, stage.queue(name))


@fault("a replica's queue deleted, then cqrs_sync", deletes=False)
def _deleted(stage: Stage, dice: random.Random) -> None:
    """What was in the queue is gone with it; its worker declares it again, and the master sends the rows again."""
    name = dice.choice(REPLICAS)
    worker = stage.workers[name]
    worker.forget_log()
    with stage.broker.connection() as connection, connection.channel() as channel:
        channel.queue_delete(stage.queue(name))
    worker.wait_for_log("Consuming")
    stage.let_it_work(100)
    stage.stop_load()
    for cqrs_id in ("country", "city", "event"):
        sync = stage.master.manage("cqrs_sync", "--cqrs-id", cqrs_id, "--queue", stage.queue(name))
        assert sync.popen.wait(60) == 0, sync.log()
        sync.kill()


@fault("link to the broker cut")
def _cut(stage: Stage, dice: random.Random) -> None:
    _spoil(stage, dice, lambda link: link.cut(), seconds(3, 10))


@fault("link to the broker stalled")
def _stalled(stage: Stage, dice: random.Random) -> None:
    _spoil(stage, dice, lambda link: link.stall(), seconds(5, 15))


@fault("link to the broker half closed")
def _half(stage: Stage, dice: random.Random) -> None:
    _spoil(stage, dice, lambda link: link.half_close(), 1)


def _spoil(stage: Stage, dice: random.Random, spoil: Callable, duration: float) -> None:
    """The link of the master, and after it that of a replica."""
    for name in ("shop", dice.choice(REPLICAS)):
        spoil(stage.links[name])
        time.sleep(duration)
        stage.links[name].mend()
        stage.let_it_work(100)


@fault("broker stopped and started", needs="node")
def _stop_app(stage: Stage, dice: random.Random) -> None:
    stage.control("stop_app")
    time.sleep(seconds(3, 10))
    stage.control("start_app")
    stage.let_it_work(100)


@fault("broker killed", needs="node")
def _kill_broker(stage: Stage, dice: random.Random) -> None:
    assert stage.options.server is not None
    stage.options.server.kill()
    time.sleep(seconds(1, 5))
    stage.options.server.start()
    stage.let_it_work(100)


@fault("broker's memory alarm", needs="node")
def _memory(stage: Stage, dice: random.Random) -> None:
    stage.control("set_vm_memory_high_watermark", "0.000001")
    time.sleep(seconds(5, 20))
    stage.control("set_vm_memory_high_watermark", "0.4")
    stage.let_it_work(100)


@fault("broker's disk alarm", needs="node")
def _disk(stage: Stage, dice: random.Random) -> None:
    stage.control("set_disk_free_limit", "9000000000000000")
    time.sleep(seconds(5, 20))
    stage.control("set_disk_free_limit", "50MB")
    stage.let_it_work(100)


# --- the databases ---------------------------------------------------------------------------------------------------


@fault("connections of the databases terminated")
def _terminated(stage: Stage, dice: random.Random) -> None:
    for _ in range(3):
        for url in (stage.master_url, *stage.replica_urls):
            _terminate(url)
        stage.let_it_work(60)


def _terminate(url: str) -> None:
    ledger.execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


@fault("rows of a replica locked")
def _rows(stage: Stage, dice: random.Random) -> None:
    for name in dice.sample(REPLICAS, 2):
        with psycopg.connect(stage.urls[name]) as connection:
            connection.execute("SELECT code FROM search_event ORDER BY number DESC LIMIT 20 FOR UPDATE")
            stage.let_it_work(150)
            connection.rollback()


@fault("tables of a replica locked")
def _tables(stage: Stage, dice: random.Random) -> None:
    with _batches_stuck(stage, dice.choice(REPLICAS)):
        stage.let_it_work(150)


@contextlib.contextmanager
def _batches_stuck(stage: Stage, name: str) -> Iterator[None]:
    """While this lasts, a worker of a replica has a batch in hand that cannot go on."""
    with servers.locked(stage.urls[name], "search_event"):
        wait_until(lambda: servers.waiting_for_locks(stage.urls[name]) > 0, "a batch waits for a lock")
        yield


@fault("deadlocks on a replica")
def _deadlocks(stage: Stage, dice: random.Random) -> None:
    """Lock what a batch needs next, wait until it stands there, then ask for what the batch has locked."""
    name = dice.choice(REPLICAS)
    victims, end = 0, time.monotonic() + 90
    while victims < 3:
        stage.workers[name].forget_log()
        try:
            _lock_crosswise(stage.urls[name])
        except psycopg.errors.DeadlockDetected:  # the batch had looked for deadlocks before this was one
            assert time.monotonic() < end, "No batch has been the victim of a deadlock."
            continue
        stage.workers[name].wait_for_log("the batch is tried again")
        victims += 1
        stage.let_it_work(40)


def _lock_crosswise(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SET deadlock_timeout = '4s'")
        connection.execute("LOCK TABLE chaos_history IN SHARE MODE")
        wait_until(lambda: servers.waiting_for_locks(url) > 0, "a batch waits for the lock", step=0.02)
        connection.execute("LOCK TABLE search_event, search_city, search_country IN SHARE MODE")
        connection.rollback()


@fault("statement timeouts on a replica")
def _timeouts(stage: Stage, dice: random.Random) -> None:
    name = dice.choice(REPLICAS)
    url = stage.urls[name]
    stage.workers[name].forget_log()
    database = url.rpartition("/")[2]
    ledger.execute(url, f"ALTER DATABASE {database} SET statement_timeout = '300ms'")
    _terminate(url)
    with servers.locked(url, "search_event"):
        stage.workers[name].wait_for_log("the batch is tried again")
        stage.let_it_work(150)
    ledger.execute(url, f"ALTER DATABASE {database} RESET statement_timeout")
    _terminate(url)


@fault("database of a replica away")
def _away(stage: Stage, dice: random.Random) -> None:
    with servers.no_connections(stage.urls[dice.choice(REPLICAS)]):
        time.sleep(seconds(8, 90))


@fault("database of the master away")
def _master_away(stage: Stage, dice: random.Random) -> None:
    with servers.no_connections(stage.master_url):
        time.sleep(seconds(3, 15))
    stage.let_it_work(100)


# --- all together ----------------------------------------------------------------------------------------------------

_MIXED = [
    "master killed after the commit, before dispatch", "link to the broker cut",
    "pool process killed after the rows are written", "connections of the databases terminated",
    "process group of a worker killed", "link to the broker half closed", "relay killed while it holds a claim",
    "worker killed after the commit, before ack", "rows of a replica locked",
]  # fmt: skip


@fault("mixed")
def _mixed(stage: Stage, dice: random.Random) -> None:
    for name in dice.sample(_MIXED, len(_MIXED)):
        FAULTS[name].harm(stage, dice)
