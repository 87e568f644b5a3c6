"""What a save costs while the broker is away, beside what it costs while it is there: one process, in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from benchmarks import environment as env
from benchmarks import servers
from benchmarks.measures.rows import people

_TURNS = 3


def outage(n: int = 1000, rate: int = 500) -> Iterator[dict[str, Any]]:
    """``n`` updates at a steady rate with the broker there, and as many with its link cut, in turn."""
    from benchmarks.service.masters.models import Person

    servers.empty("master")
    with _link() as tell, servers.side("master") as connection, servers.broker() as queues:
        instances = people(Person, 100)
        for instance in instances:
            instance.save()
        times: dict[str, list[float]] = {"there": [], "away": []}
        for _ in range(_TURNS):
            for state in times:
                servers.wait_for(lambda: servers.outbox_size(connection) == 0, 120, "an empty outbox")
                queues.purge()
                tell("cut" if state == "away" else "mend")
                times[state] += _saves(instances, n, rate)
                tell("mend")
        servers.wait_for(lambda: servers.outbox_size(connection) == 0, 120, "an empty outbox")
    summaries = {state: _summary(found) for state, found in times.items()}
    yield {f"{state}_{name}_ms": value for state, found in summaries.items() for name, value in found.items()}


@contextmanager
def _link() -> Iterator[Callable[[str], None]]:
    """A link to the broker that obeys; the master's process takes it."""
    from django_cqrs_celery import topology

    link = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.link"], cwd=env.ROOT, env=env.of_process(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert link.stdin is not None and link.stdout is not None
    address = urlsplit(env.AMQP_URL)
    host = f"{address.username}:{address.password}@127.0.0.1:{link.stdout.readline().strip()}"
    topology.celery_app().conf.broker_write_url = urlunsplit(address._replace(netloc=host))

    def tell(word: str) -> None:
        link.stdin.write(f"{word}\n")
        link.stdin.flush()
        link.stdout.readline()

    try:
        yield tell
    finally:
        link.stdin.close()
        link.wait(10)


def _saves(instances: list[Any], n: int, rate: int) -> list[float]:
    times, start = [], time.monotonic()
    for number in range(n):
        pause = start + number / rate - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        instance = instances[number % len(instances)]
        instance.note = f"note {number}"
        before = time.perf_counter()
        instance.save()
        times.append(time.perf_counter() - before)
    return times


def _summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"median": statistics.median(ordered) * 1e3, "p99": ordered[round(0.99 * (len(ordered) - 1))] * 1e3}
