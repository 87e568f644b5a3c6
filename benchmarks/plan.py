"""What a run measures, how often, and with how many rows; the peer gets fewer where it would take minutes.

Rates are compared as rates. Libraries take turns within a repetition, so that what the machine does besides hits both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from benchmarks.environment import NO_BROKER, OURS, PEER

#: On which capture by the ORM and by triggers is measured, and who publishes meanwhile.
ENGINES = ("postgresql", "mariadb", "sqlite")
DISPATCHES = ("relay", "background")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A measure of one library; ``title`` groups the results."""

    title: str
    measure: str
    library: str
    arguments: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    #: File of messages that it needs: the library publishes them once for all repetitions.
    messages: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    repetitions: int = 3
    saves: int = 1000
    messages: int = 20_000
    messages_peer: int = 10_000
    hooked: int = 4_000
    grouped: int = 100_000
    sync: int = 100_000
    sync_peer: int = 10_000
    dump: int = 20_000
    diff: int = 100_000
    created: int = 5_000
    updated: int = 100_000
    latency: int = 200
    latency_loaded: int = 2_000
    settle: float = 12.0
    memory: int = 100_000
    limits: int = 10_000
    growth: tuple[int, ...] = (1_000, 10_000, 100_000)
    growth_messages: int = 10_000
    growth_messages_peer: int = 3_000


SMALL = Sizes(
    repetitions=1, saves=100, messages=300, messages_peer=300, hooked=100, grouped=2_000, sync=1_000, sync_peer=500,
    dump=500, diff=500, created=500, updated=1_000, latency=20, latency_loaded=100, memory=2_000, limits=500,
    settle=1.0, growth=(100, 1_000), growth_messages=300, growth_messages_peer=100,
)  # fmt: skip


def each_repetition(sizes: Sizes, libraries: tuple[str, ...]) -> Iterator[Step]:
    """Steps of one repetition, in turn."""
    yield Step(title="limits", measure="limits", library=OURS, arguments={"n": sizes.limits})
    for library in libraries:
        yield Step(title="save", measure="save", library=library, arguments={"n": sizes.saves})
    for library in libraries:
        yield Step(
            title="save, broker away", measure="save", library=library,
            arguments={"n": sizes.saves // 4, "broker": "away"}, environment={"BENCH_AMQP_URL": NO_BROKER},
        )  # fmt: skip
    for workers in (1, 2):
        for library in libraries:
            count = sizes.messages if library == OURS else sizes.messages_peer
            yield _apply("apply", library, count, workers=workers)
    for library in libraries:
        yield _apply("apply, hooks", library, sizes.hooked, table="hooked")
    yield _apply("apply, grouped", OURS, sizes.grouped, changes=250)
    for library in libraries:
        rows = sizes.sync if library == OURS else sizes.sync_peer
        yield Step(title="sync", measure="sync", library=library, arguments={"n": rows})
    for library in libraries:
        yield Step(title="dump and load", measure="dump_load", library=library, arguments={"n": sizes.dump})
    for library in libraries:
        yield Step(title="diff by pipe", measure="diff", library=library, arguments={"n": sizes.diff})
    for library in libraries:
        yield Step(title="bulk_create", measure="bulk_create", library=library, arguments={"n": sizes.created})
    for library in libraries:
        rows = sizes.updated if library == OURS else sizes.updated // 10
        yield Step(title="bulk_update", measure="bulk_update", library=library, arguments={"n": rows})
    for library in libraries:
        arguments = {"n": sizes.latency, "settle": sizes.settle}
        yield Step(title="latency", measure="latency", library=library, arguments=arguments)
    for library in libraries:
        yield Step(
            title="latency at 500 saves/s", measure="latency_loaded", library=library,
            arguments={"n": sizes.latency_loaded, "settle": sizes.settle},
        )  # fmt: skip
    for engine in ENGINES:
        for dispatch in DISPATCHES:
            # All that is written is published before the next measure: where nobody waits for that, more can be.
            updated = sizes.updated if dispatch == "relay" else sizes.updated // 10
            yield Step(
                title="capture", measure="capture", library=OURS,
                arguments={
                    "engine": engine, "dispatch": dispatch, "n": sizes.saves, "created": sizes.created,
                    "updated": updated,
                },
            )  # fmt: skip


def once(sizes: Sizes, libraries: tuple[str, ...]) -> Iterator[Step]:
    """Steps that one run has once: memory, and growth with the size of the table."""
    yield from _tuning(sizes)
    yield Step(title="memory", measure="memory", library=OURS, arguments={"n": sizes.memory})
    yield Step(title="outage", measure="outage", library=OURS, arguments={"n": sizes.saves})
    for rows in sizes.growth:
        for library in libraries:
            yield Step(
                title="growth, save", measure="save", library=library,
                arguments={"n": sizes.saves // 2, "table_rows": rows},
            )  # fmt: skip
        for library in libraries:
            count = sizes.growth_messages if library == OURS else sizes.growth_messages_peer
            yield _apply("growth, apply", library, count, rows=rows)


#: What is tuned, by the name under which it is reported: the ``CQRS`` setting, and what it is measured by.
_TUNED: tuple[tuple[str, dict[str, object], tuple[str, ...]], ...] = (
    ("defaults", {}, ("save", "apply", "latency_loaded")),
    ("dispatch: on_commit", {"master": {"dispatch": "on_commit"}}, ("save", "latency_loaded")),
    ("dispatch: relay", {"master": {"dispatch": "relay"}}, ("save",)),
    ("gather_seconds: 0.005", {"master": {"gather_seconds": 0.005}}, ("save", "latency_loaded")),
    ("gather_seconds: 0.1", {"master": {"gather_seconds": 0.1}}, ("save", "latency_loaded")),
    ("batch_size: 50", {"replica": {"batch_size": 50}}, ("apply",)),
    ("prefetch: 50", {"replica": {"prefetch": 50}}, ("apply",)),
    ("queue_type: classic", {}, ("apply", "latency_loaded")),
)


def _tuning(sizes: Sizes) -> Iterator[Step]:
    for name, settings, measures in _TUNED:
        environment = {"BENCH_CQRS": json.dumps(settings)} if settings else {}
        if name.startswith("queue_type"):
            environment["BENCH_QUEUE_TYPE"] = name.split()[1]
            yield Step(title="tuning, queue", measure="declare", library=OURS, environment=environment)
        for measure in measures:
            title = f"tuning, {name}"
            if measure == "apply":
                step = _apply(title, OURS, sizes.growth_messages, rows=sizes.messages)
                yield replace(step, environment=environment)
            else:
                n = sizes.saves if measure == "save" else sizes.latency_loaded // 2
                yield Step(
                    title=title, measure=measure, library=OURS, arguments={"n": n}, environment=environment,
                )  # fmt: skip
        if name.startswith("queue_type"):
            yield Step(title="tuning, queue", measure="remove", library=OURS, environment=environment)


def _apply(
    title: str, library: str, n: int, *, table: str = "person", rows: int = 0, workers: int = 1, changes: int = 1
) -> Step:
    common: dict[str, object] = {"n": n, "table": table, "rows": rows}
    return Step(
        title=title, measure="apply", library=library, arguments={**common, "workers": workers},
        messages={**common, "changes": changes},
    )  # fmt: skip


LIBRARIES = (OURS, PEER)
