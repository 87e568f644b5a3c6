"""How fast a replica's worker applies what waits in its queue."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import environment as env
from benchmarks import processes, servers

_SHARE_BEFORE = 0.05


def messages(
    path: Path, table: str = "person", n: int = 20000, rows: int = 0, changes: int = 1
) -> Iterator[dict[str, Any]]:
    """Have the library publish ``n`` updates of the rows of a table, and keep the messages in a file.

    ``rows``: rows of the table (``n`` where not given). ``changes``: most changes that a message carries.
    """
    from django.conf import settings

    from benchmarks.service.masters import models

    model: Any = {"person": models.Person, "hooked": models.Hooked}[table]
    settings.CQRS["master"] = {**settings.CQRS.get("master", {}), "dispatch": "relay", "message_max_changes": changes}
    rows = rows or n
    servers.empty("master")
    servers.fill("master", table, rows)
    processes.declare_queue()
    chosen = sorted(random.Random(1).sample(range(1, rows + 1), min(rows, n)))
    published = 0
    with servers.broker() as queues:
        queues.purge()
        while published < n:
            part = chosen[: n - published]
            model.cqrs.bulk_update(model.objects.filter(pk__in=part), note=f"changed {published} " + "u" * 70)
            _publish()
            published += len(part)
        count = servers.wait_for(queues.settled, 60, "the messages in the queue")
        queues.drain(count, path)
    yield {"table": table, "changes": n, "messages": count, "bytes": path.stat().st_size}


def _publish() -> None:
    if env.LIBRARY == env.OURS:
        from django_cqrs_celery import dispatcher

        dispatcher.relay()


def apply(
    path: Path, table: str = "person", n: int = 20000, rows: int = 0, workers: int = 1
) -> Iterator[dict[str, Any]]:
    """Time a worker on the messages of a file, from the first twentieth to the last change: its start is left out."""
    rows = rows or n
    servers.empty("replica")
    with servers.side("replica") as connection:
        # Not after the table is filled: PostgreSQL writes each page whole at its first change after a checkpoint, and
        # a large table, whose rows share no pages, would pay that for every change.
        connection.execute("CHECKPOINT")
    servers.fill("replica", table, rows)
    with servers.side("replica") as connection, servers.broker() as queues:
        queues.purge()
        with path.open() as file:
            count = queues.publish(file)
        worker = processes.start_worker(workers)
        try:
            rate, seconds = _steady_rate(connection, table, n)
        finally:
            worker.stop()
    yield {
        "table": table, "rows": rows, "workers": workers, "messages": count, "changes": n, "changes_per_s": rate,
        "seconds": seconds,
    }  # fmt: skip


def _steady_rate(connection: Any, table: str, n: int) -> tuple[float, float]:
    # Each change raises the revision of its row by one, so their sum is the number of changes applied.
    query = f"SELECT coalesce(sum(cqrs_revision), 0)::int FROM {table} WHERE cqrs_revision > 0"
    first: tuple[float, int] | None = None
    begun = time.monotonic()
    deadline = begun + 60 + n / 100
    while True:
        applied, now = servers.value(connection, query), time.monotonic()
        if first is None and applied >= n * _SHARE_BEFORE:
            first = now, applied
        if first is not None and applied >= n:
            if first[1] >= n:  # too few for two looks
                first = begun, 0
            return (applied - first[1]) / (now - first[0]), now - first[0]
        if now > deadline:
            raise TimeoutError(f"{env.LIBRARY}: only {applied} of {n} changes were applied.")
        time.sleep(0.1 if n >= 5000 else 0.02)
