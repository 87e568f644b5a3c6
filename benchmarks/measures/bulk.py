"""Many rows at once: bulk writes on the master, sync, dump and load."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import environment as env
from benchmarks import processes, servers
from benchmarks.measures.rows import people


def bulk_create(n: int = 5000) -> Iterator[dict[str, Any]]:
    """``Model.cqrs.bulk_create`` beside Django's own, and the messages that come of it."""
    from benchmarks.service.masters.models import Person, PlainPerson

    servers.empty("master")
    people(PlainPerson, 1)[0].save()
    with servers.broker() as queues, servers.side("master") as connection:
        _published(connection)
        queues.purge()
        plain = _timed(lambda: PlainPerson.objects.bulk_create(people(PlainPerson, n)))
        instances = people(Person, n)
        replicated = _timed(lambda: Person.cqrs.bulk_create(instances))
        _published(connection)
        yield {
            "rows": n, "plain_s": plain, "replicated_s": replicated, "ratio": replicated / plain,
            "messages": servers.wait_for(queues.settled, 60, "messages of bulk_create"),
        }  # fmt: skip
        queues.purge()


def bulk_update(n: int = 100_000) -> Iterator[dict[str, Any]]:
    """``Model.cqrs.bulk_update`` of ``n`` rows beside ``QuerySet.update()`` of a plain table, and its memory."""
    from benchmarks.service.masters.models import Person, PlainPerson

    servers.empty("master")
    for table in ("plain_person", "person"):
        servers.fill("master", table, n)
    with servers.broker() as queues, servers.side("master") as connection:
        plain = _timed(lambda: PlainPerson.objects.all().update(note="changed"))
        processes.forget_peak()
        before = processes.memory()
        replicated = _timed(lambda: Person.cqrs.bulk_update(Person.objects.all(), note="changed"))
        call = processes.peak_memory() - before
        _published(connection, seconds=300)
        yield {
            "rows": n, "plain_s": plain, "replicated_s": replicated, "ratio": replicated / plain,
            "memory_mb": call, "memory_published_mb": processes.peak_memory() - before,
        }  # fmt: skip
        queues.purge()


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _published(connection: Any, seconds: float = 60) -> None:
    servers.wait_for(lambda: servers.outbox_size(connection) == 0, seconds, "an empty outbox")


def sync(n: int = 100_000, workers: int = 1) -> Iterator[dict[str, Any]]:
    """``cqrs_sync`` of a table into an empty replica, from the command's start to the last row in the replica."""
    servers.empty("master", "replica")
    servers.fill("master", "person", n)
    with processes.running_worker(workers), servers.side("replica") as connection:
        start = time.monotonic()
        command = subprocess.Popen(
            env.command("cqrs_sync", "--cqrs-id=person", "-f={}"), cwd=env.ROOT, env=env.of_process(side="master"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def count() -> bool:
            return servers.value(connection, "SELECT count(*) FROM person") >= n

        servers.wait_for(count, 60 + n / 100, "the last row in the replica", step=0.1)
        seconds = time.monotonic() - start
        if command.wait(60):
            raise RuntimeError(f"{env.LIBRARY}: cqrs_sync ended with {command.returncode}.")
    yield {"rows": n, "workers": workers, "seconds": seconds, "rows_per_s": n / seconds}


def dump_load(n: int = 20_000) -> Iterator[dict[str, Any]]:
    """``cqrs_bulk_dump`` into a file and ``cqrs_bulk_load`` into an empty replica, start of the commands included."""
    servers.empty("master", "replica")
    servers.fill("master", "person", n)
    with tempfile.TemporaryDirectory() as folder, servers.side("replica") as connection:
        path = Path(folder) / "dump"
        dump = _timed(lambda: processes.run("cqrs_bulk_dump", "--cqrs-id=person", "-o", str(path), side="master"))
        size = path.stat().st_size
        load = _timed(lambda: processes.run("cqrs_bulk_load", "-i", str(path), side="replica"))
        there = servers.value(connection, "SELECT count(*) FROM person")
        if there != n:
            raise RuntimeError(f"{env.LIBRARY}: {there} of {n} rows were loaded.")
    yield {
        "rows": n, "dump_s": dump, "load_s": load, "dump_rows_per_s": n / dump, "load_rows_per_s": n / load,
        "bytes": size,
    }  # fmt: skip


def diff(n: int = 100_000) -> Iterator[dict[str, Any]]:
    """The pipe of three commands that compares ``n`` equal rows, start of the commands included, and its bytes."""
    servers.empty("master", "replica")
    for side in ("master", "replica"):
        servers.fill(side, "person", n)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "listed"
        start = time.perf_counter()
        master = _piped(None, "master", "cqrs_diff_master", "--cqrs-id=person")
        tee = subprocess.Popen(["tee", str(listed)], stdin=master.stdout, stdout=subprocess.PIPE)
        replica = _piped(tee.stdout, "replica", "cqrs_diff_replica")
        sync_ = _piped(replica.stdout, "master", "cqrs_diff_sync")
        codes = [process.wait(120) for process in (master, tee, replica, sync_)]
        seconds = time.perf_counter() - start
        if any(codes):
            raise RuntimeError(f"{env.LIBRARY}: the commands of the pipe ended with {codes}.")
        yield {"rows": n, "seconds": seconds, "rows_per_s": n / seconds, "bytes": listed.stat().st_size}


def _piped(source: Any, side: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        env.command(*words), cwd=env.ROOT, env=env.of_process(side=side), stdin=source or subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
