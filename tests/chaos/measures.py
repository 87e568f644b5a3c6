"""Figures of an outage: what saves cost meanwhile, how far the other replicas fall behind, what a long outbox takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import ledger
from tests.chaos.faults import full_queue, seconds
from tests.chaos.stage import REPLICAS, Stage
from tests.integration import servers

#: Most that the 99th percentile of a save may rise while the broker is away, in seconds.
RISE = 0.05
#: Most that the other replicas may be behind while one is away, in seconds.
LAG = 10.0
#: Most that a relay may grow while it works off a long outbox, in MB.
GROWTH = 50.0
PENDING = 100_000


@dataclass(frozen=True)
class Figure:
    """Something measured, in words, and whether it is within its limit."""

    text: str
    is_well: bool


Harm = Callable[[Stage], contextlib.AbstractContextManager[None]]


# --- the broker away -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def link_cut(stage: Stage) -> Iterator[None]:
    """The link between the master and the broker is gone."""
    stage.links["shop"].cut()
    yield
    stage.links["shop"].mend()


@contextlib.contextmanager
def link_stalled(stage: Stage) -> Iterator[None]:
    """The link between the master and the broker takes all and passes nothing on."""
    stage.links["shop"].stall()
    yield
    stage.links["shop"].mend()


@contextlib.contextmanager
def memory_alarm(stage: Stage) -> Iterator[None]:
    """The broker takes no messages because its memory is short."""
    stage.control("set_vm_memory_high_watermark", "0.000001")
    yield
    stage.control("set_vm_memory_high_watermark", "0.4")


def saves_while(stage: Stage, name: str, harm: Harm) -> Figure:
    """The cost of saves before and during an outage; a save that fails ends the measurement with its error."""
    stage.begin()
    stage.save_steadily(f"m{time.time():.0f}"[-6:])
    time.sleep(5)  # the writers' first saves connect
    began = time.time()
    time.sleep(seconds(10, 30))
    cut = time.time()
    with harm(stage):
        time.sleep(seconds(15, 60))
        mended = time.time()
    times = stage.stop_saving()
    before = percentile([cost for at, cost in times if began <= at < cut], 0.99)
    during = percentile([cost for at, cost in times if cut <= at < mended], 0.99)
    worst = max(cost for at, cost in times if cut <= at < mended)
    took, complaint = stage.converge()
    found = ledger.examine(stage.master_url, stage.replica_urls, stage.first_token)
    return Figure(
        f"{name} for {mended - cut:.0f} s: {len(times)} saves, none failed; p99 {before * 1000:.1f} ms before,"
        f" {during * 1000:.1f} ms meanwhile (worst {worst * 1000:.0f} ms); all there {took:.1f} s after,"
        f" {found.lost} lost, {found.stale} stale{'; ' + complaint if complaint else ''}",
        during - before < RISE and complaint is None and not found.lost and not found.stale,
    )


def percentile(values: list[float], part: float) -> float:
    """The value below which a part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


# --- one replica away ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def queue_full(stage: Stage) -> Iterator[None]:
    """The first replica has no worker, and its queue is full."""
    with full_queue(stage, REPLICAS[0]):
        yield
    stage.restore()


@contextlib.contextmanager
def database_away(stage: Stage) -> Iterator[None]:
    """The first replica's database takes no connection."""
    with servers.no_connections(stage.urls[REPLICAS[0]]):
        yield


def lag_while(stage: Stage, name: str, harm: Harm) -> Figure:
    """How far the other replicas were behind the master, by rows that were written once."""
    stage.begin()
    stage.save_steadily(f"n{time.time():.0f}"[-6:])
    time.sleep(5)
    with harm(stage):
        began = time.time()
        time.sleep(seconds(15, 60))
        ended = time.time()
    stage.stop_saving()
    took, complaint = stage.converge()
    lag = max(_lag(stage, each, began, ended) for each in REPLICAS[1:])
    return Figure(
        f"{name} for {ended - began:.0f} s: the other replicas at most {lag:.2f} s behind; the one that was away equal"
        f" {took:.1f} s after{'; ' + complaint if complaint else ''}",
        lag < LAG and complaint is None,
    )


def _lag(stage: Stage, name: str, began: float, ended: float) -> float:
    written = dict(
        ledger.query(
            stage.master_url,
            "SELECT pk, extract(epoch FROM min(at)) FROM chaos_ledger GROUP BY tbl, pk"
            f" HAVING count(*) = 1 AND extract(epoch FROM min(at)) BETWEEN {began} AND {ended}",
        )
    )
    arrived = dict(
        ledger.query(stage.urls[name], "SELECT pk, extract(epoch FROM min(at)) FROM chaos_history GROUP BY pk")
    )
    return max(float(arrived[pk] - at) for pk, at in written.items())


# --- a long outbox ---------------------------------------------------------------------------------------------------

_FILL = """
for number in range(0, count, 1000):
    Event.cqrs.bulk_create([Event(title="pending", number=number + n) for n in range(1000)])
"""
_HELD = "SELECT count(*) FROM django_cqrs_celery_outboxmessage WHERE lease_token IS NOT NULL"


def long_outbox(stage: Stage) -> Figure:
    """A relay that finds a long outbox: what its memory comes to, and how much it holds at once."""
    driver = stage.master.new_driver(TESTBED_DISPATCH="relay")
    driver.send(_FILL, count=PENDING)
    driver.answer(300)
    driver.stop()
    pending = ledger.value(stage.master_url, _PENDING)
    start = time.monotonic()
    relay = stage.master.manage("cqrs_relay")
    sizes: list[float] = []
    held = 0
    while relay.is_alive and time.monotonic() - start < 300:
        if ledger.value(stage.master_url, _PENDING) < pending:
            sizes.append(_resident(relay.pid))
        held = max(held, ledger.value(stage.master_url, _HELD))
        time.sleep(0.1)
    took = time.monotonic() - start
    said = relay.log().strip().splitlines()[-1]
    code = relay.stop()
    growth = max(sizes) - sizes[0] if sizes else 0.0
    left = ledger.value(stage.master_url, _PENDING)
    converged, complaint = stage.converge(180)
    return Figure(
        f"{pending} changes pending: {said} in {took:.0f} s, {left} left; memory {sizes[0] if sizes else 0:.0f} MB"
        f" after the first batch, at most {growth:.1f} MB more; at most {held} rows held at once; replicas equal"
        f" {converged:.1f} s after{'; ' + complaint if complaint else ''}",
        code == 0 and left == 0 and growth < GROWTH and held <= 1000 and complaint is None,
    )


_PENDING = "SELECT count(*) FROM django_cqrs_celery_outboxmessage WHERE status = 0"


def _resident(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def measure(stage: Stage) -> Iterator[Figure]:
    """All of it, one after the other."""
    yield saves_while(stage, "link to the broker cut", link_cut)
    yield saves_while(stage, "link to the broker stalled", link_stalled)
    if stage.options.server:
        yield saves_while(stage, "broker's memory alarm", memory_alarm)
    yield lag_while(stage, "a replica's queue full", queue_full)
    yield lag_while(stage, "a replica's database away", database_away)
    if stage.relay is not None:
        stage.relay.stop()
    yield long_outbox(stage)
    stage.restore()
