"""Healing with real services: PostgreSQL to MariaDB, and to SQLite with a mapped subset; real workers, a real beat.

The short form runs with every test run. Long forms, on a quiet machine::

    CQRS_HEALING_ROWS=100000 CQRS_HEALING_INTERVAL=5 pytest tests/integration/test_healing.py -k beat -s
    CQRS_HEALING_SECONDS=300 pytest tests/integration/test_healing.py -k live -s
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time

import pytest

from django_cqrs_celery.dataclasses import decode_message
from tests import services
from tests.integration import harness, servers
from tests.integration.harness import wait_until
from tests.integration.system import system

ROWS = int(os.environ.get("CQRS_HEALING_ROWS", "1000"))
INTERVAL = float(os.environ.get("CQRS_HEALING_INTERVAL", "1.5"))
SECONDS = float(os.environ.get("CQRS_HEALING_SECONDS", "8"))
#: Seconds between two kills, at least and at most: in the long form a worker that was started gets to work, too.
PAUSES = (1, 4) if SECONDS < 60 else (2, 15)
#: Seconds that a system of so many rows may take to become equal.
PATIENCE = harness.DEADLINE + ROWS / 500

pytestmark = pytest.mark.timeout(600 + ROWS / 50 + 3 * SECONDS)

FILL = """
for n in range(20):
    Country.objects.create(iso=f"c{n}", name=f"Country {n}")
for start in range(0, count, 5000):
    City.objects.bulk_create([
        City(id=n + 1, name=f"City {n}", country_id=f"c{n % 20}") for n in range(start, min(start + 5000, count))
    ])
"""
#: What has just changed is left for a later round; here everything is old.
AGE = """
for model in models:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {globals()[model]._meta.db_table} SET cqrs_updated = '2024-01-01 00:00:00'")
"""


@pytest.fixture(scope="module")
def healed(tmp_path_factory, vhost):
    services.require("postgresql", "mariadb", "rabbitmq")
    engines = {"shop": "postgresql", "search": "mariadb", "stats": "sqlite"}
    with system(tmp_path_factory.mktemp("healing"), engine=engines, broker="rabbitmq", vhost=vhost) as built:
        yield built


@contextlib.contextmanager
def workers(built, beat=None):
    """The workers of all three, and beat with these arguments of ``beat_schedule``."""
    env = {} if beat is None else {"TESTBED_SYNC": json.dumps(beat)}
    with contextlib.ExitStack() as stack:
        started = []
        stack.callback(lambda: harness.stop_all(started))
        for replica in built.replicas.values():
            started.append(replica.worker("-c", "1", ready=False))
        started.append(built.master.worker("-c", "1", queues=built.master.env["TESTBED_DEFAULT_QUEUE"], ready=False))
        for worker in started:
            worker.wait_for_log("ready.")
        if beat is not None:
            schedule = str(built.master.logs / f"schedule{time.monotonic()}")
            started.append(built.master.celery("beat", "-s", schedule, "--pidfile=", name="beat", **env))
        yield started


def fill(built, count):
    """Rows on the master and, after a while, on the replicas; nothing of it new."""
    built.clear()
    built.master.run(FILL, count=count)
    built.wait_equal(deadline=PATIENCE)
    built.master.run(AGE, models=["Country", "City"])
    built.replicas["search"].run(AGE, models=["Country", "City"])
    built.replicas["stats"].run(AGE, models=["Land", "Place"])


def say(text):
    """A figure, for who runs the long form with ``-s``."""
    sys.stdout.write(f"{text}\n")


def sync_now(built, *options):
    """The command, waiting for the replicas."""
    done = built.master.manage("cqrs_sync", "--mode", "digest", "--wait", "40", *options)
    assert done.popen.wait(90) == 0, done.log()
    done.stop()
    return done.log()


def test_one_round_of_beat_repairs_exactly_what_differs(healed):
    few = max(3, ROWS // 300)
    with workers(healed):
        fill(healed, ROWS)
    chosen = random.Random(1).sample(range(1, ROWS + 1), 3 * few)
    changed, removed, on_master = chosen[:few], chosen[few : 2 * few], chosen[2 * few :]
    healed.search.run(
        """
with connection.cursor() as cursor:
    for pk in changed:
        cursor.execute("UPDATE search_city SET name = 'drifted' WHERE id = %s", [pk])
    for pk in removed:
        cursor.execute("DELETE FROM search_city WHERE id = %s", [pk])
    for pk in added:
        cursor.execute(
            "INSERT INTO search_city (id, name, country_id, population, cqrs_revision, cqrs_updated)"
            " VALUES (%s, 'extra', 'c1', 0, 3, '2024-01-01')", [pk]
        )
""",
        changed=changed, removed=removed, added=[10**7 + n for n in range(few)],
    )  # fmt: skip
    healed.master.run(
        """
with connection.cursor() as cursor:
    cursor.execute("SET session_replication_role = replica")  # past the triggers, if these capture
    for pk in chosen:
        cursor.execute("UPDATE shop_city SET population = 7 WHERE id = %s", [pk])
    cursor.execute("SET session_replication_role = DEFAULT")
""",
        chosen=on_master,
    )  # fmt: skip
    healed.broker.tap(healed.queue("tap"))
    started = time.monotonic()
    beat = {"sync_seconds": INTERVAL, "sync_kwargs": {"cqrs_id": "city", "content": True}}
    with workers(healed, beat):
        healed.wait_equal(deadline=PATIENCE)
        say(f"{ROWS} rows, {few} of each kind differ: healed {time.monotonic() - started:.1f} s after the start")
        verified = "result = list(SyncState.objects.filter(mode='digest').exclude(queue='').values())"
        wait_until(
            lambda: all(row["verified_at"] for row in healed.master.run(verified)), "a round finds them equal", PATIENCE
        )
    messages = healed.broker.take_all(healed.queue("tap"))
    sent = [
        (change["signal_type"], change["instance_pk"])
        for task, body in messages
        if task.endswith("cqrs_apply")
        for change in decode_message(body)
    ]
    say(f"{sum(len(body) for _, body in messages)} bytes in {len(messages)} messages")
    # What was changed on the master goes to both replicas.
    wanted = [("SYNC", pk) for pk in changed + removed + on_master * 2]
    wanted += [("DELETE", 10**7 + n) for n in range(few)]
    assert sorted(sent) == sorted(wanted)


def test_everything_at_the_broker_is_lost(healed):
    with workers(healed):
        fill(healed, 300)
    healed.master.run(
        """
for n in range(1, 40):
    city = City.objects.get(id=n)
    city.name = "changed and lost"
    city.save()
City.objects.filter(id__gte=50, id__lt=90).delete()
City.objects.create(id=5000, name="created and lost", country_id="c1")
call_command("cqrs_relay")
"""
    )
    names = [healed.queue(name) for name in ("search", "stats")]
    assert all(healed.broker.count(name) for name in names)
    dead = [f"dead_letter_{name}" for name in names]
    healed.broker.delete_queues(*names, *dead, healed.master.env["TESTBED_DEFAULT_QUEUE"])
    healed.master.run(AGE, models=["Country", "City"])
    with workers(healed, {"sync_seconds": INTERVAL}):
        healed.wait_equal()


def test_the_master_is_restored_from_a_backup(healed, tmp_path):
    url, dump = healed.master.env["TESTBED_DATABASE_URL"], str(tmp_path / "backup")
    with workers(healed):
        fill(healed, 300)
        subprocess.run(["pg_dump", "-Fc", "-f", dump, url], check=True, capture_output=True)
        healed.master.run(
            """
City.objects.filter(id__lt=20).update(name="future")
City.objects.filter(id__gte=20, id__lt=40).delete()
City.objects.bulk_create([City(id=n, name="from the future", country_id="c1") for n in range(6000, 6200)])
call_command("cqrs_relay")
"""
        )
        healed.wait_equal()
    healed.master.run("connection.close()")
    subprocess.run(["pg_restore", "--clean", "-d", url, dump], check=True, capture_output=True)
    # It goes on for a while as if nothing had happened: the same revision as on the replicas, other values.
    healed.master.run("City.objects.filter(id=5).update(name='another history')\ncall_command('cqrs_relay')")
    healed.master.run(AGE, models=["Country", "City"])
    healed.search.run(AGE, models=["Country", "City"])
    healed.replicas["stats"].run(AGE, models=["Land", "Place"])
    with workers(healed):
        done = healed.master.manage("cqrs_sync", "--mode", "digest", "--cqrs-id", "city")
        done.popen.wait(60)
        ahead = "result = list(SyncState.objects.filter(rows_ahead__gt=0).values_list('queue', flat=True))"
        wait_until(lambda: len(healed.master.run(ahead)) == 2, "both replicas are reported as ahead")
        say(sync_now(healed, "--content", "--force"))
        healed.wait_equal()


def test_a_replica_may_not_start_tasks_of_the_master(healed):
    with workers(healed) as started:
        with healed.broker.connection() as connection, connection.channel() as channel:
            channel.basic_publish(
                channel.prepare_message(
                    b"[[],{},{}]", content_type="application/json", content_encoding="utf-8",
                    headers=servers.task_headers("django_cqrs_celery.tasks.cqrs_purge"),
                ),
                exchange=healed.broker.exchange, routing_key="cqrs-master.city",
            )  # fmt: skip
        started[-1].wait_for_log("is refused")
        assert "Task django_cqrs_celery.tasks.cqrs_purge" not in started[-1].log()


WRITER = """
import random, threading, time
chance = random.Random(5)
end, due, deleted, count = time.monotonic() + seconds, time.monotonic(), [], 0
while time.monotonic() < end:
    due += 1 / 200
    pause = due - time.monotonic()
    if pause > 0:
        time.sleep(pause)
    pk, what = chance.randrange(1, 400), chance.random()
    count += 1
    if what < 0.05:
        deleted.append(pk)
        City.objects.filter(id=pk).delete()
    elif what < 0.4 or not City.objects.filter(id=pk).update(name=f"n{count}"):
        City.objects.update_or_create(id=pk, defaults={"name": f"n{count}", "country_id": "c1"})
result = [count, sorted(set(deleted))]
"""
WATCHER = """
import time
before, lowered, vanished, looks = {}, [], [], 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    now = dict(City.objects.values_list("id", "cqrs_revision"))
    lowered += [pk for pk, revision in before.items() if now.get(pk, revision) < revision]
    vanished += [pk for pk in before if pk not in now]
    before, looks = now, looks + 1
    time.sleep(0.1)
result = [sorted(set(lowered)), sorted(set(vanished)), looks]
"""


def test_rounds_during_live_writes_and_kills(healed):
    """No live row is deleted and no revision lowered, whoever is killed; at the end all is equal."""
    with workers(healed):
        fill(healed, 390)
    chance = random.Random(3)
    writer = healed.master.new_driver()
    watcher = healed.search.new_driver()
    try:
        with workers(healed, {"sync_seconds": 0.5, "sync_kwargs": {"rate": 5000}}) as started:
            writer.send(WRITER, seconds=SECONDS)
            watcher.send(WATCHER, seconds=SECONDS + 2)
            end = time.monotonic() + SECONDS
            kills = 0
            while time.monotonic() < end:
                time.sleep(min(chance.uniform(*PAUSES), max(0.1, end - time.monotonic())))
                which = chance.choice([0, 2])
                started[which].kill()
                kills += 1
                again = healed.search.worker("-c", "1", ready=False) if which == 0 else healed.master.worker(
                    "-c", "1", queues=healed.master.env["TESTBED_DEFAULT_QUEUE"], ready=False
                )  # fmt: skip
                started[which] = again
            count, deleted = writer.answer()
            lowered, vanished, looks = watcher.answer()
            say(f"{count} writes in {SECONDS} s, {kills} kills, {looks} looks, {len(vanished)} rows seen to vanish")
            healed.wait_equal(deadline=PATIENCE + SECONDS)
    finally:
        for driver in (writer, watcher):
            driver.kill()
    assert lowered == []
    assert set(vanished) <= set(deleted)


def test_over_a_broker_without_amqp(tmp_path):
    with system(tmp_path, engine="sqlite", broker="embedded", replicas=("search",)) as built, workers(built):
        built.master.run(FILL, count=50)
        built.wait_equal()
        built.search.run("City.objects.filter(id__lt=10).delete()\nCity.objects.filter(id=11).update(name='drifted')")
        built.master.run(AGE, models=["Country", "City"])
        built.search.run(AGE, models=["Country", "City"])
        sync_now(built, "--content")
        built.wait_equal()
