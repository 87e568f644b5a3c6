"""What capturing costs the writer, on one engine: ``python -m benchmarks.capture postgresql``.

A plain table, one captured by the ORM and one captured by triggers take turns in one process; prints one JSON object a
line, times as quotients of the plain table's (``ratio``). With ``--writers 100 --seconds 60`` pgbench writes by plain
SQL while a relay empties the outbox: throughput beside that of the plain table, deadlocks, and changes that were lost;
a server that takes fewer connections than that is no place for it (``BENCH_POSTGRESQL_URL`` names another).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from glob import glob
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from benchmarks import environment as env

ENGINES = ("postgresql", "mariadb", "sqlite")
KINDS = ("plain", "orm", "trigger")
BLOCK = 100


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture", description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--saves", type=int, default=1000)
    parser.add_argument("--updated", type=int, default=100_000)
    parser.add_argument("--created", type=int, default=5000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dispatch", choices=("relay", "background"), default="relay", help="who publishes (relay)")
    parser.add_argument("--writers", type=int, default=0, help="pgbench clients; nothing else is measured then")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--notify", action="store_true", help="with --writers: a third time, each statement notifies")
    options = parser.parse_args()
    connection = prepare(options.engine, options.dispatch)
    try:
        measure = writers(options) if options.writers else costs(options)
        for numbers in measure:
            print(json.dumps({"engine": options.engine, "dispatch": options.dispatch, **numbers}), flush=True)
    finally:
        if options.dispatch == "background":
            from django_cqrs_celery import background

            background.flush()  # its thread has a connection
            remove_queue()
        connection.creation.destroy_test_db(connection.settings_dict["NAME"], verbosity=0)


NAME = f"{env.PREFIX}_capture"


def prepare(engine: str, dispatch: str) -> Any:
    """Django with a database of its own on this engine."""
    if engine == "mariadb":
        import pymysql

        pymysql.install_as_MySQLdb()
    settings.configure(
        SECRET_KEY="benchmark", USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django_cqrs_celery", "benchmarks.capturing"],
        DATABASES={"default": {**env.database(engine, NAME), "CONN_MAX_AGE": None}},
        CQRS={"exchange": NAME, "master": {"dispatch": dispatch, "replicas": [NAME]}}, CELERY_BROKER_URL=env.AMQP_URL,
    )  # fmt: skip
    import celery

    # As in a project, the app is there before Django's apps are, so that all threads know it.
    celery.Celery(NAME, set_as_current=True).config_from_object("django.conf:settings", namespace="CELERY")
    django.setup()
    from django.db import connection

    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    return connection


def remove_queue() -> None:
    """Leave nothing on the broker."""
    import kombu

    with kombu.Connection(env.AMQP_URL) as connection, connection.channel() as channel:
        for queue in (NAME, f"dead_letter_{NAME}"):
            channel.queue_delete(queue)
        channel.exchange_delete(NAME)


def models() -> dict[str, Any]:
    """The three models by the way in which they are captured."""
    from benchmarks.capturing.models import ByORM, ByTrigger, Plain

    return dict(zip(KINDS, (Plain, ByORM, ByTrigger), strict=True))


def empty() -> None:
    """No rows anywhere."""
    from django_cqrs_celery.models import OutboxMessage

    for model in (*models().values(), OutboxMessage):
        model.objects.all()._raw_delete("default")


# --- one writer ------------------------------------------------------------------------------------------------------


def costs(options: Any) -> Iterator[dict[str, Any]]:
    """Medians over the repetitions of what each write costs, beside the plain table's."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.repetitions):
        empty()
        for name, times in saves(options):
            found.setdefault(name, []).append(times)
        empty()
        many = bulk(options)
        for name, times in many:
            found.setdefault(name, []).append(times)
    for name, repetitions in found.items():
        medians = {kind: statistics.median(times[kind] for times in repetitions) for kind in repetitions[0]}
        ratios = {
            f"ratio_{kind}": round(statistics.median(t[kind] / t["plain"] for t in repetitions), 2)
            for kind in ("orm", "trigger")
            if kind in medians
        }
        yield {"write": name, **ratios, **{f"{kind}_us": round(value * 1e6, 1) for kind, value in medians.items()}}
    yield {"write": "memory", "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}


def saves(options: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Median seconds of one ``save()``."""
    for place, size in (("autocommit", 1), ("blocks of 100", BLOCK)):
        rows = {kind: [model(name=f"{number}") for number in range(options.saves)] for kind, model in models().items()}
        for verb in ("create", "update"):
            for instances in rows.values():
                for instance in instances:
                    instance.note = verb
            yield f"save(), {verb}, {place}", _in_turn(rows, size, options)


def _in_turn(rows: dict[str, list[Any]], size: int, options: Any) -> dict[str, float]:
    """Median seconds of a save by kind; the kinds take turns, so that what the machine does besides hits all alike.

    Where saves are published in the background, each kind has its time alone: others would pay for it.
    """
    starts = range(0, options.saves, size)
    if options.dispatch == "relay":
        turns = [(kind, start) for start in starts for kind in rows]
    else:
        turns = [(kind, start) for kind in rows for start in starts]
    times: dict[str, list[float]] = {kind: [] for kind in rows}
    for number, (kind, start) in enumerate(turns):
        if number and kind != turns[number - 1][0]:
            settle(options)
        part = rows[kind][start : start + size]
        began = time.perf_counter()
        if size == 1:
            part[0].save()
        else:
            _save_together(part)
        times[kind].append((time.perf_counter() - began) / len(part))
    settle(options)
    return {kind: statistics.median(found) for kind, found in times.items()}


def _save_together(instances: list[Any]) -> None:
    from django.db import transaction

    with transaction.atomic():
        for instance in instances:
            instance.save()


def bulk(options: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Seconds of ``bulk_create`` and of one ``QuerySet.update()``."""

    def each(write: Callable[[str, Any], Any]) -> dict[str, float]:
        times = {}
        for kind, model in models().items():
            times[kind] = timed(lambda kind=kind, model=model: write(kind, model))
            settle(options)
        return times

    rows = {kind: [m(name=str(n)) for n in range(options.created)] for kind, m in models().items()}
    yield "bulk_create", each(lambda kind, model: model.objects.bulk_create(rows[kind]))
    empty()
    for model in models().values():
        for start in range(0, options.updated, 10_000):
            model.objects.bulk_create([model(name=str(n)) for n in range(start, min(start + 10_000, options.updated))])
    settle(options)
    _forget()
    yield "QuerySet.update()", each(lambda kind, model: model.objects.update(note="changed"))


def settle(options: Any) -> None:
    """Wait for what is published in the background, so that it is paid for by the saves that caused it."""
    from django_cqrs_celery.models import OutboxMessage

    until = time.monotonic() + 600
    while options.dispatch == "background" and OutboxMessage.objects.pending().exists():
        if time.monotonic() > until:
            raise SystemExit("The outbox does not become empty.")
        time.sleep(0.02)


def _forget() -> None:
    from django.db import connection

    from django_cqrs_celery.models import OutboxMessage

    OutboxMessage.objects.all()._raw_delete("default")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# --- many writers ----------------------------------------------------------------------------------------------------

ROWS = 10_000
SCRIPT = "\\set id random(1, {rows})\nUPDATE {table} SET balance = balance + 1 WHERE id = :id;\n"


class Counted:
    """In place of the broker: keeps the highest revision that was published of each row."""

    def __init__(self) -> None:
        self.revisions: dict[int, int] = {}

    def publish(self, message: Any) -> None:
        """Note the changes of a message."""
        from django_cqrs_celery.dataclasses import decode_message

        for change in decode_message(message.body):
            key, revision = change["instance_pk"], change["instance_data"]["cqrs_revision"]
            self.revisions[key] = max(revision, self.revisions.get(key, 0))


def writers(options: Any) -> Iterator[dict[str, Any]]:
    """Transactions per second of pgbench on the plain table and on the one with triggers, a relay beside."""
    from django_cqrs_celery.models import OutboxMessage

    kinds = ("plain", "trigger", "notify") if options.notify else ("plain", "trigger")
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for model in models().values():
        model.objects.bulk_create([model(pk=number, name=str(number)) for number in range(1, ROWS + 1)])
    OutboxMessage.objects.all()._raw_delete("default")
    published, over = Counted(), threading.Event()
    relay = threading.Thread(target=_relay, args=(published, over))
    before = _deadlocks()
    relay.start()
    try:
        for _ in range(options.repetitions):
            for kind in rates:
                table = models()["plain" if kind == "plain" else "trigger"]._meta.db_table
                with _notifying(table) if kind == "notify" else nullcontext():
                    rates[kind].append(_pgbench(table, options.writers, options.seconds))
    finally:
        over.set()
        relay.join()
    rows = dict(models()["trigger"].objects.values_list("pk", "cqrs_revision"))
    lost = sum(1 for pk, revision in rows.items() if revision != published.revisions.get(pk, 0))
    plain, captured = (statistics.median(rates[kind]) for kind in ("plain", "trigger"))
    yield {
        "writers": options.writers, "seconds": options.seconds,
        **{f"{kind}_tps": round(statistics.median(found)) for kind, found in rates.items()},
        "throughput": round(captured / plain, 3), "lost": lost,
        "changes": sum(rows.values()),
        "left": OutboxMessage.objects.pending().count(), "deadlocks": _deadlocks() - before,
    }  # fmt: skip


@contextmanager
def _notifying(table: str) -> Iterator[None]:
    """What a trigger would do that tells a waiting relay of each statement (``LISTEN``)."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION bench_notify() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_notify('cqrs', ''); RETURN NULL; END $$;"
            f"CREATE TRIGGER bench_notify AFTER UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION bench_notify()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION bench_notify CASCADE")


def _relay(published: Counted, over: threading.Event) -> None:
    from django.db import connection

    from django_cqrs_celery import dispatcher

    while True:
        last = over.is_set()
        dispatcher.drain("default", published)
        if last:
            break
        over.wait(0.2)
    connection.close()


def _deadlocks() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return cursor.fetchone()[0]


def _pgbench(table: str, clients: int, seconds: int) -> float:
    from django.db import connection

    program = shutil.which("pgbench") or next(iter(sorted(glob("/usr/lib/postgresql/*/bin/pgbench"))), None)
    if program is None:
        raise SystemExit("There is no pgbench: install PostgreSQL's server package or its contrib package.")
    address = connection.settings_dict
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "write.sql"
        script.write_text(SCRIPT.format(rows=ROWS, table=table))
        done = subprocess.run(
            [program, "-n", "-f", str(script), "-c", str(clients), "-j", "2", "-T", str(seconds), "-M", "prepared",
             "-h", address["HOST"], "-p", str(address["PORT"]), "-U", address["USER"], address["NAME"]],
            capture_output=True, text=True, env={**os.environ, "PGPASSWORD": address["PASSWORD"]}, check=False,
        )  # fmt: skip
    if done.returncode or "aborted" in done.stderr:
        raise SystemExit(f"pgbench failed: {done.stderr}")
    return next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps"))


if __name__ == "__main__":
    main()
