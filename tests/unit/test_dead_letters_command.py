"""``cqrs_dead_letters``: letters made by real failures, looked at and decided about."""

from __future__ import annotations

import datetime
import json
import uuid
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_cqrs_celery import dead_letters, intake
from django_cqrs_celery.constants import DeadLetterStatus
from django_cqrs_celery.models import DeadLetter
from tests.replica_app.models import Author, Ticket

CODES = [str(uuid.UUID(int=number)) for number in range(3)]


def run(*args):
    out = StringIO()
    call_command("cqrs_dead_letters", *args, stdout=out)
    return out.getvalue().splitlines()


def change(cqrs_id, pk, **data):
    name = {"ticket": "code", "author": "id"}[cqrs_id]
    data = {name: pk, "cqrs_revision": 1, "cqrs_updated": "2030-01-01T00:00:00+00:00", **data}
    return {"signal_type": "SAVE", "cqrs_id": cqrs_id, "instance_pk": pk, "instance_data": data}


@pytest.fixture
def letters(engine, settings):
    """Two tickets and an author that failed and are dead, and a message that cannot be read."""
    settings.CQRS = {"queue": "tests", "replica": {"CQRS_MAX_RETRIES": 0}}
    Ticket.fail_with = ValueError("secret of the hook")
    intake.take_changes([change("ticket", code, title=f"private {code}") for code in CODES[:2]])
    intake.take_changes([change("author", 1, name="x" * 1000 if engine != "sqlite" else None)])
    intake.take([b"no JSON"])
    assert set(DeadLetter.objects.values_list("status", flat=True)) == {"dead"}
    return DeadLetter.objects.order_by("pk")


def test_list_shows_no_payload(letters):
    lines = run("list")
    assert len(lines) == 4
    assert lines[0].startswith(f"{letters[0].pk}: ticket {CODES[0]} SAVE revision 1, dead, 0 retries")
    assert "(unreadable)" in lines[3]
    assert not any("private" in line or "secret" in line for line in lines)


def test_dump_writes_what_is_kept(letters):
    held = [json.loads(line) for line in run("dump")]
    assert [item["instance_data"]["title"] for item in held[:2]] == [f"private {code}" for code in CODES[:2]]
    assert held[3] == "no JSON"


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--cqrs-id", "ticket"], [0, 1]),
        (["--cqrs-id", "ticket", "author"], [0, 1, 2]),
        (["--pk", CODES[1]], [1]),
        (["--pk", CODES[1], "1"], [1, 2]),
        (["--cqrs-id", "author", "--pk", CODES[1]], []),
        (["--status", "pending"], []),
        (["--status", "dead", "--cqrs-id", "author"], [2]),
        (["--all"], [0, 1, 2, 3]),
    ],
)
def test_narrowing(letters, options, numbers):
    assert [line.split(":")[0] for line in run("list", *options)] == [str(letters[n].pk) for n in numbers]


def test_since(letters):
    now = timezone.now()
    DeadLetter.objects.filter(pk=letters[0].pk).update(created_at=now - datetime.timedelta(days=10))
    yesterday, minute = now - datetime.timedelta(days=1), now - datetime.timedelta(minutes=5)
    assert len(run("list", "--since", yesterday.date().isoformat())) == 3
    assert len(run("list", "--since", minute.isoformat())) == 3
    assert len(run("list", "--since", (now - datetime.timedelta(days=11)).date().isoformat())) == 4


def test_closed_ones_are_listed_when_asked_for(letters):
    DeadLetter.objects.filter(pk=letters[0].pk).close(DeadLetterStatus.RESOLVED)
    assert len(run("list")) == len(run("dump")) == 3
    assert len(run("list", "--all")) == len(run("dump", "--all")) == 4
    assert len(run("list", "--status", "resolved")) == 1


def test_retry_when_the_cause_is_gone(letters):
    Ticket.fail_with = None
    assert run("retry", "--cqrs-id", "ticket") == ["2 tried again: 2 settled, 0 failed again."]
    assert {str(code) for code in Ticket.objects.values_list("code", flat=True)} == set(CODES[:2])
    assert set(letters.filter(cqrs_id="ticket").values_list("status", flat=True)) == {"resolved"}
    assert letters.filter(cqrs_id="author").get().status == "dead"


def test_retry_when_the_cause_is_not_gone(letters):
    assert run("retry", "--cqrs-id", "ticket") == ["2 tried again: 0 settled, 2 failed again."]
    assert Ticket.objects.count() == 0
    assert set(letters.filter(cqrs_id="ticket").values_list("status", flat=True)) == {"dead"}


def test_retry_of_everything_leaves_the_unreadable_one(letters):
    Ticket.fail_with = None
    lines = run("retry")
    assert lines[0] == "3 tried again: 2 settled, 1 failed again."
    assert lines[1].startswith("1 left alone")
    kept = letters.get(cqrs_id="")
    assert (kept.status, kept.payload) == ("dead", "no JSON")


def test_retry_of_a_change_that_has_expired_meanwhile(engine):
    Ticket.fail_with = ValueError("no")
    past = (timezone.now() - datetime.timedelta(days=1)).isoformat()
    intake.take_changes([{**change("ticket", CODES[0], title="late"), "expires": past}])
    assert DeadLetter.objects.get().status == "dead"
    Ticket.fail_with = None
    assert run("retry") == ["1 tried again: 1 settled, 0 failed again."]
    assert Ticket.objects.get().title == "late"


def test_retry_gives_all_retries_again(engine, settings):
    settings.CQRS = {"queue": "tests", "replica": {"CQRS_MAX_RETRIES": 2, "CQRS_RETRY_DELAY": 3600}}
    Ticket.fail_with = ValueError("no")
    intake.take_changes([{**change("ticket", CODES[0], title="a"), "retries": 2}])
    assert DeadLetter.objects.get().status == "dead"
    run("retry")
    assert DeadLetter.objects.get().status == "pending"


def test_a_letter_that_a_worker_holds_is_left_alone(letters):
    Ticket.fail_with = None
    held = DeadLetter.objects.filter(cqrs_id="ticket").order_by("pk").take(token="worker", seconds=60, limit=1)
    lines = run("retry", "--cqrs-id", "ticket")
    assert lines[0] == "1 tried again: 1 settled, 0 failed again." and lines[1].startswith("1 left alone")
    assert DeadLetter.objects.get(pk=held[0].pk).status == "dead"


def test_more_letters_than_one_retry_takes(engine, settings, monkeypatch):
    monkeypatch.setattr(dead_letters, "BATCH", 2)
    settings.CQRS = {"queue": "tests", "replica": {"CQRS_MAX_RETRIES": 0}}
    Ticket.fail_with = ValueError("no")
    intake.take_changes([change("ticket", str(uuid.UUID(int=n)), title="a") for n in range(5)])
    Ticket.fail_with = None
    assert run("retry") == ["5 tried again: 5 settled, 0 failed again."]


def test_purge(letters):
    DeadLetter.objects.filter(pk=letters[0].pk).update(status="pending")
    DeadLetter.objects.filter(pk=letters[1].pk).close(DeadLetterStatus.SUPERSEDED)
    assert run("purge", "--cqrs-id", "ticket") == ["1 deleted."]
    assert run("purge", "--pk", "1") == ["1 deleted."]
    assert run("purge") == ["1 deleted."]
    assert [letter.status for letter in letters.all()] == ["pending"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--since", "yesterday"], "--since is 'yesterday', expected a date or a time"),
        (["list", "--since", "2030-02-31"], "--since is '2030-02-31'"),
        (["retry", "--status", "resolved"], "retry takes letters that are pending, waiting, dead; not resolved."),
        (["purge", "--status", "pending"], "purge takes letters that are dead, superseded, resolved; not pending."),
        (["purge", "--all", "--pk", "1"], "--all goes with none of"),
        (["list", "--status", "lost"], "invalid choice: 'lost'"),
        (["send"], "invalid choice: 'send'"),
        ([], "required: action"),
    ],
)
def test_wrong_arguments(transactional_db, arguments, message):
    with pytest.raises(CommandError, match=message):
        run(*arguments)


def test_database_that_takes_nothing(letters, monkeypatch):
    monkeypatch.setattr(intake, "retry_due", lambda: intake.Answer(again="OperationalError: away"))
    with pytest.raises(CommandError, match="cannot take changes now"):
        run("retry", "--cqrs-id", "ticket")
    assert set(letters.filter(cqrs_id="ticket").values_list("status", flat=True)) == {"pending"}


def test_nothing_there(engine):
    assert run("list") == run("dump") == []
    assert run("retry") == ["0 tried again: 0 settled, 0 failed again."]
    assert run("purge") == ["0 deleted."]
    assert not Author.objects.exists()
