"""What replication adds to ``save()``: the same saves of a plain and of a replicated model, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import transaction

from benchmarks import servers
from benchmarks.measures.rows import people

BLOCK = 100
_PLACES = ("autocommit", "atomic")


def save(n: int = 1000, broker: str = "up", table_rows: int = 0) -> Iterator[dict[str, Any]]:
    """``n`` creates, then updates of the same rows, one by one and in blocks of 100; microseconds a save.

    ``table_rows``: rows that the table has before. Waits for the outbox to be empty before it goes on, so that
    publishing in the background is paid for by the saves that caused it.
    """
    from benchmarks.service.masters.models import Person, PlainPerson

    servers.empty("master")
    for table in ("plain_person", "person"):
        if table_rows:
            servers.fill("master", table, table_rows)
            _let_sequence_follow(table)
    for model in (PlainPerson, Person):  # connections are opened before the clock runs
        people(model, 1)[0].save()
    _settle(broker)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for place in _PLACES:
        unsaved = {"plain": people(PlainPerson, n), "replicated": people(Person, n)}
        for kind in ("create", "update"):
            numbers = found[kind, place] = {}
            for who, instances in unsaved.items():
                for number, instance in enumerate(instances):
                    instance.note = f"{kind} {number}"
                times = _one_by_one(instances) if place == "autocommit" else _in_blocks(instances)
                numbers |= {
                    f"{who}_median_us": statistics.median(times) * 1e6, f"{who}_mean_us": statistics.fmean(times) * 1e6
                }  # fmt: skip
                _settle(broker)
    for (kind, place), numbers in found.items():
        yield {"kind": kind, "place": place, "broker": broker, "rows": table_rows, **numbers, **_ratios(numbers)}


def _let_sequence_follow(table: str) -> None:
    with servers.side("master") as connection:
        connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")


def _ratios(numbers: dict[str, Any]) -> dict[str, float]:
    return {
        f"ratio_{name}": numbers[f"replicated_{name}_us"] / numbers[f"plain_{name}_us"] for name in ("median", "mean")
    }


def _one_by_one(instances: list[Any]) -> list[float]:
    times = []
    for instance in instances:
        start = time.perf_counter()
        instance.save()
        times.append(time.perf_counter() - start)
    return times


def _in_blocks(instances: list[Any]) -> list[float]:
    times = []
    for first in range(0, len(instances), BLOCK):
        block = instances[first : first + BLOCK]
        start = time.perf_counter()
        with transaction.atomic():
            for instance in block:
                instance.save()
        times.append((time.perf_counter() - start) / len(block))
    return times


def _settle(broker: str) -> None:
    """Wait until what was saved is published, and throw the messages away; with no broker nothing can be."""
    if broker == "away":
        return
    if settings.CQRS.get("master", {}).get("dispatch") == "relay":
        from django_cqrs_celery import dispatcher

        dispatcher.relay()
    with servers.side("master") as connection:
        servers.wait_for(lambda: servers.outbox_size(connection) == 0, 60, "an empty outbox")
    with servers.broker() as queues:
        queues.purge()
