"""What the servers, and Celery alone, can do on this machine: no library is in it."""

from __future__ import annotations

import datetime
import decimal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import environment as env
from benchmarks import processes, servers

_COLUMNS = ("id", "name", "email", "balance", "is_active", "joined", "note", "cqrs_revision", "cqrs_updated")


def limits(n: int = 20_000) -> Iterator[dict[str, Any]]:
    """All limits, each a rate."""
    for name, measure in (
        ("PostgreSQL, commits of one row", _commits), ("PostgreSQL, upsert of 500 rows", _upserts),
        ("kombu, publish with confirm", _confirms), ("Celery, empty tasks, 1 process", lambda n: _tasks(n, 1)),
        ("Celery, empty tasks, 2 processes", lambda n: _tasks(n, 2)),
    ):  # fmt: skip
        yield {"limit": name, "per_s": measure(n)}


def _rows(n: int, revision: int) -> list[tuple[Any, ...]]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return [
        (i, f"person {i}", f"person{i}@example.com", decimal.Decimal(i) / 100, True, now, "u" * 80, revision, now)
        for i in range(1, n + 1)
    ]


def _rate(n: int, call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return n / (time.perf_counter() - start)


def _commits(n: int) -> float:
    n = min(n, 5000)
    servers.empty("replica")
    servers.fill("replica", "person", n)
    sql = "UPDATE person SET note = %s, cqrs_revision = 1, cqrs_updated = now() WHERE id = %s"
    with servers.side("replica") as connection:
        return _rate(n, lambda: [connection.execute(sql, ("u" * 80, i), prepare=True) for i in range(1, n + 1)])


def _upserts(n: int) -> float:
    servers.empty("replica")
    servers.fill("replica", "person", n)
    rows = _rows(n, 1)
    sets = ", ".join(f"{name} = EXCLUDED.{name}" for name in _COLUMNS[1:])
    one = f"({', '.join(['%s'] * len(_COLUMNS))})"

    def write(part: Sequence[tuple[Any, ...]]) -> None:
        connection.execute(
            f"INSERT INTO person ({', '.join(_COLUMNS)}) VALUES {', '.join([one] * len(part))}"
            f" ON CONFLICT (id) DO UPDATE SET {sets} WHERE person.cqrs_revision < EXCLUDED.cqrs_revision",
            [value for row in part for value in row],
        )

    with servers.side("replica") as connection:
        return _rate(n, lambda: [write(rows[first : first + 500]) for first in range(0, n, 500)])


def _confirms(n: int) -> float:
    from kombu import Connection, Exchange, Producer, Queue

    n = min(n, 5000)
    name = f"{env.PREFIX}_confirms"
    with Connection(env.AMQP_URL, transport_options={"confirm_publish": True}) as connection:
        channel = connection.default_channel
        queue = Queue(name, Exchange(""), routing_key=name, queue_arguments={"x-queue-type": "quorum"})(channel)
        queue.declare()
        try:
            producer, body = Producer(channel), "x" * 400
            return _rate(n, lambda: [producer.publish(body, routing_key=name, delivery_mode=2) for _ in range(n)])
        finally:
            queue.delete()


def _tasks(n: int, workers: int) -> float:
    from benchmarks import noop

    queue = f"{noop.QUEUE}{workers}"
    with noop.app.producer_pool.acquire(block=True) as producer:
        for i in range(n):
            noop.noop.apply_async(({"id": i, "note": "n" * 80},), producer=producer, queue=queue)
    arguments = [
        sys.executable, "-m", "celery", "-A", "benchmarks.noop", "worker", "-c", str(workers), "-Q", queue, "-l",
        "ERROR", "-n", f"noop{workers}.{time.monotonic_ns()}@bench", "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    with servers.broker() as queues:
        servers.wait_for(lambda: queues.ready(queue) >= n, 60, "the tasks in the queue")
        worker = processes.Process(arguments, "noop", env.of_process())
        try:
            first = servers.wait_for(lambda: _left(queues, queue, n * 0.95), 60, "the first tasks", step=0.02)
            last = servers.wait_for(lambda: _left(queues, queue, 0), 120, "the last task", step=0.02)
        finally:
            worker.stop()
            queues.channel.queue_delete(queue)
    return (first[1] - last[1]) / (last[0] - first[0])


def _left(queues: servers.Broker, queue: str, at_most: float) -> tuple[float, int] | None:
    left = queues.ready(queue)
    return (time.monotonic(), left) if left <= at_most else None
