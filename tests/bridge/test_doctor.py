"""``cqrs_doctor`` on real installations: what is wrong is named, with a cure; what is well is said to be."""

from __future__ import annotations

import datetime
import json

import kombu
import pytest
from celery import Celery
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_cqrs_celery import doctor, topology
from django_cqrs_celery.models import DeadLetter, OutboxMessage
from tests import services
from tests.integration import servers
from tests.integration.harness import wait_until
from tests.integration.system import system


def examine(project, *, expect=None, **env):
    """Run the command in a project; findings as texts, by level."""
    process = project.manage("cqrs_doctor", "--format", "json", name="doctor", **env)
    try:
        wait_until(lambda: not process.is_alive, "the doctor has finished")
        text = process.log()
    finally:
        process.kill()
    answer = json.loads(text[text.index("{") : text.rindex("}") + 1])
    found: dict[str, list[str]] = {"fine": [], "look": [], "wrong": []}
    for each in answer["findings"]:
        found[each["level"]].append(f"{each['subject']} {each['what']}")
        assert each["cure"] or each["level"] == "fine", each
    assert process.popen.returncode == (1 if found["wrong"] else 0)
    assert expect is None or len(found["wrong"]) == expect, found["wrong"]
    return found


def has(found, *words):
    return any(all(word in line for word in words) for line in found)


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    services.require("rabbitmq")
    with system(
        tmp_path_factory.mktemp("doctor"), engine="sqlite", broker="rabbitmq", replicas=("search",),
        declared_by_master=False,
    ) as made:  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def worker(installation):
    worker = installation.search.worker()
    yield worker
    worker.stop()


def test_before_anything_is_started(installation):
    found = examine(installation.search, expect=1)
    assert has(found["wrong"], installation.queue(), "is not there")
    assert has(found["look"], "exchange", "is not there") and has(found["fine"], "broker", "answers")


def test_a_replica_that_is_well(installation, worker):
    found = examine(installation.search, expect=0)
    for cqrs_id in ("country", "city", "event"):
        assert has(found["fine"], f"key cqrs.{installation.queue()}.{cqrs_id}", "is bound")
    assert has(found["fine"], installation.queue(), "consumed by 1") and has(found["fine"], "exchange", "topic")
    assert has(found["fine"], "database default", "nothing waits") and has(found["fine"], "beat")
    # The empty messages that it has sent are applied as such.
    wait_until(lambda: installation.broker.count(installation.queue()) == 0, "the worker has taken the messages")
    assert installation.letters() == []


def test_a_master_whose_tasks_nobody_runs(installation, worker):
    found = examine(installation.master, expect=1)
    assert has(found["wrong"], f"{installation.queue('shop')}_tasks", "is not there")
    assert has(found["fine"], "key city", "is bound")


def test_a_binding_that_is_gone(installation, worker):
    name = installation.queue()
    key = f"cqrs.{name}.city"
    with installation.broker.connection() as connection, connection.channel() as channel:
        channel.queue_unbind(name, installation.broker.exchange, key)
        try:
            found = examine(installation.search, expect=1)
        finally:
            channel.queue_bind(name, installation.broker.exchange, key)
    assert has(found["wrong"], key, "is not bound")


def test_a_queue_of_another_type(installation, worker):
    found = examine(installation.search, TESTBED_QUEUE_TYPE="classic")
    assert has(found["wrong"], f"queue {installation.queue()}", "has other properties")


def test_an_exchange_of_another_type(installation):
    name = f"{installation.broker.prefix}_direct"
    with installation.broker.connection() as connection, connection.channel() as channel:
        kombu.Exchange(name, "direct", durable=True)(channel).declare()
        try:
            found = examine(installation.master, TESTBED_EXCHANGE=name)
        finally:
            channel.exchange_delete(name)
    assert has(found["wrong"], f"exchange {name}", "is there, but another")


def test_no_broker(installation):
    found = examine(installation.search, TESTBED_BROKER_URL=f"amqp://guest:secret@127.0.0.1:{servers.free_port()}//")
    assert has(found["wrong"], "broker", "does not answer") and not has(found["wrong"], "secret")


def test_no_tables(installation, tmp_path):
    found = examine(installation.search, TESTBED_DATABASE_URL=f"sqlite://{tmp_path}/new.sqlite3")
    assert has(found["wrong"], "database default", "tables of django_cqrs_celery are missing")


def test_a_queue_that_nobody_consumes(installation):
    with installation.broker.connection() as connection, connection.channel() as channel:
        name = f"{installation.broker.prefix}_idle"
        kombu.Queue(name, durable=True)(channel).declare()
        try:
            found = examine(installation.master, TESTBED_DEFAULT_QUEUE=name)
        finally:
            channel.queue_delete(name)
    assert has(found["wrong"], name, "has no consumer")


def test_the_queue_of_django_cqrs_masters(installation):
    legacy = f"{installation.broker.prefix}_old"
    more = json.dumps({"legacy_queue": legacy, "legacy_exchange": f"{legacy}_exchange"})
    found = examine(installation.search, TESTBED_EXTRA=more)
    assert has(found["wrong"], f"queue {legacy}", "is not there")


# --- in this process -----------------------------------------------------------------------------------------------


@pytest.fixture
def findings(engine, monkeypatch):
    app = Celery("doctor", set_as_current=False)
    monkeypatch.setattr(topology, "celery_app", lambda: app)
    monkeypatch.setattr(doctor, "_broker", lambda: iter(()))
    return lambda: [(str(each.level), each.what) for each in doctor.examine()]


def test_an_outbox_that_nobody_empties(findings):
    from tests import routing

    rows = OutboxMessage.objects.using(routing.current["master"])
    old = timezone.now() - datetime.timedelta(seconds=doctor.OUTBOX_SECONDS + 60)
    rows.create(signal_type="SAVE", cqrs_id="author", instance_pk="1", created_at=old)
    wrong = [what for level, what in findings() if level == "wrong"]
    assert has(wrong, "1 changes wait in the outbox, the oldest for 12")


def test_dead_letters(findings):
    from tests import routing

    letters = DeadLetter.objects.using(routing.current["replica"])
    letters.create(status="dead", payload="{}", error_class="X")
    letters.create(status="waiting", payload="{}", error_class="X")
    found = findings()
    assert ("wrong", "1 dead letters are out of retries") in found
    assert ("look", "1 changes wait for another try or for their parents") in found


def test_a_beat_that_does_not_know_the_tasks(findings):
    assert has([what for level, what in findings() if level == "wrong"], "the schedule lacks", "cqrs_relay")


def test_the_command_prints_lines_and_fails(findings, capsys):
    with pytest.raises(CommandError, match=r"wrong, \d+ to look at"):
        call_command("cqrs_doctor")
    assert "wrong: beat the schedule lacks" in capsys.readouterr().out


def test_a_doctor_who_cannot_look_says_so(monkeypatch):
    def broken():
        raise RuntimeError("no")

    monkeypatch.setattr(doctor, "_settings", broken)
    for name in ("_databases", "_beat", "_broker"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    (found,) = doctor.examine()
    assert found.level is doctor.Level.WRONG and "cannot be examined: RuntimeError" in found.what
