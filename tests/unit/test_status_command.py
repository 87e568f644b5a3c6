"""``cqrs_status``: the numbers are those of the tables."""

from __future__ import annotations

import datetime
import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.utils import timezone

from django_cqrs_celery import status
from django_cqrs_celery.models import DeadLetter, OutboxMessage, Tombstone
from tests import routing


def run(*args):
    out = StringIO()
    call_command("cqrs_status", *args, stdout=out)
    return out.getvalue()


@pytest.fixture
def rows(engine):
    save = {"signal_type": "SAVE", "cqrs_id": "author"}
    old = OutboxMessage.objects.create(**save, instance_pk="1")
    OutboxMessage.objects.filter(pk=old.pk).update(created_at=timezone.now() - datetime.timedelta(seconds=100))
    OutboxMessage.objects.create(**save, instance_pk="2")
    OutboxMessage.objects.create(**save, instance_pk="3", status=2, error="why")
    OutboxMessage.objects.create(signal_type="DELETE", cqrs_id="author", instance_pk="4", status=1, revision=3)
    Tombstone.objects.create(cqrs_id="author", instance_pk="4", revision=3)
    Tombstone.objects.create(cqrs_id="the_gate_of_a_table", instance_pk="", revision=-1)
    for cqrs_id, state in (("author", "dead"), ("author", "dead"), ("book", "dead"), ("book", "pending"), ("", "dead")):
        DeadLetter.objects.create(cqrs_id=cqrs_id, status=state, payload='"private"', error_class="ValueError")


def test_json(rows):
    found = json.loads(run("--format", "json"))
    assert (found["queue"], found["exchange"]) == ("cqrs_tests", "cqrs_tests")
    assert found["masters"]["author"] == "master_app.Author" and found["replicas"]["country"] == "replica_app.Country"
    outbox = found["databases"][routing.current["master"]]["outbox"]
    age = outbox.pop("oldest_pending_seconds")
    assert 99 < age < 200
    assert outbox == {"pending": 2, "failed": 1, "tombstones": 1}
    replica = found["databases"][routing.current["replica"]]
    assert replica["tombstones"] == 1
    assert replica["dead_letters"] == {"dead": {"": 1, "author": 2, "book": 1}, "pending": {"book": 1}}
    assert "default" not in found["databases"]


def test_text(rows):
    text = run()
    assert "queue: cqrs_tests\nexchange: cqrs_tests\n" in text
    assert "author (master_app.Author)" in text
    assert f"database {routing.current['master']}:\n  outbox: 2 pending (oldest 1" in text
    assert " s), 1 failed, 1 tombstones\n" in text
    assert "    dead: 4 (unreadable 1, author 2, book 1)\n    pending: 1 (book 1)\n" in text
    assert "private" not in text


def test_nothing_there(engine):
    text = run()
    assert "outbox: 0 pending, 0 failed, 0 tombstones" in text and "dead letters: none" in text


def test_a_database_that_does_not_answer(engine, monkeypatch):
    def away(alias):
        raise DatabaseError("away")

    monkeypatch.setattr(status, "_outbox", away)
    out = StringIO()
    with pytest.raises(CommandError, match=routing.current["master"]):
        call_command("cqrs_status", "--format", "json", stdout=out)
    assert json.loads(out.getvalue())["databases"][routing.current["master"]] == {"error": "DatabaseError: away"}


def test_a_database_without_the_tables(engine, monkeypatch):
    monkeypatch.setattr(OutboxMessage._meta, "db_table", "not_there")
    monkeypatch.setattr(DeadLetter._meta, "db_table", "not_there_either")
    with pytest.raises(CommandError, match="Not readable"):
        run()
    assert "run migrate" in status.gather()["databases"][routing.current["master"]]["error"]


def test_wrong_settings(transactional_db, settings):
    settings.CQRS = {"queue": 5}
    with pytest.raises(CommandError, match=r"CQRS\['queue'\] is 5"):
        run()


def test_wrong_format(transactional_db):
    with pytest.raises(CommandError, match="invalid choice"):
        run("--format", "xml")
