"""A replica that was away for longer than tombstones live says so, until somebody says that it was refilled."""

from __future__ import annotations

import datetime
import json
import logging
from io import StringIO

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.utils import timezone

from django_cqrs_celery import intake, purging
from django_cqrs_celery.models import DeadLetter, Presence
from tests import routing

DAY = datetime.timedelta(days=1)


@pytest.fixture
def replica(engine):
    return routing.current["replica"]


def last_seen(replica, ago):
    Presence.objects.using(replica).update(seen_at=timezone.now() - ago)


def note(caplog):
    caplog.clear()
    with caplog.at_level(logging.ERROR, logger="django_cqrs_celery"):
        intake.note_presence()
    return caplog.text


def warned(replica):
    return [m.id for m in run_checks(tags=["django_cqrs_celery"], databases=[replica]) if m.id.endswith("W061")]


def test_the_first_worker_and_a_pause_are_no_absence(replica, caplog):
    assert note(caplog) == ""
    last_seen(replica, 29 * DAY)
    assert note(caplog) == ""
    assert Presence.objects.using(replica).get().seen_at > timezone.now() - DAY
    assert warned(replica) == []


def test_an_absence_is_told_until_the_replica_was_refilled(replica, caplog):
    note(caplog)
    last_seen(replica, 31 * DAY)
    for _ in range(2):  # once more at each start of a worker
        assert "cqrs_status --synchronised" in note(caplog)
    assert warned(replica) == ["django_cqrs_celery.W061"]
    out = StringIO()
    call_command("cqrs_status", "--format", "json", stdout=out)
    (absence,) = json.loads(out.getvalue())["databases"][replica]["absences"]
    assert absence["queue"] == "cqrs_tests"
    out = StringIO()
    call_command("cqrs_status", stdout=out)
    assert "away: no worker consumed cqrs_tests from" in out.getvalue()
    call_command("cqrs_status", "--synchronised", stdout=StringIO())
    assert note(caplog) == ""
    assert warned(replica) == []


def test_a_second_absence_does_not_hide_the_beginning_of_the_first(replica, caplog):
    note(caplog)
    last_seen(replica, 100 * DAY)
    note(caplog)
    first = Presence.objects.using(replica).get().away_since
    last_seen(replica, 40 * DAY)
    note(caplog)
    assert Presence.objects.using(replica).get().away_since == first


def test_a_letter_that_waited_too_long_is_marked_dead_and_goes_later(replica, caplog, settings):
    settings.CQRS = {**settings.CQRS, "replica": {"dead_message_ttl": 86400}}
    letters = DeadLetter.objects.using(replica)
    for pk, age in (("old", 2 * DAY), ("young", DAY / 2)):
        letters.create(
            status="waiting", cqrs_id="book", instance_pk=pk, payload="{}", error_class="E",
            updated_at=timezone.now() - age,
        )  # fmt: skip
    with caplog.at_level(logging.ERROR, logger="django_cqrs_celery.purging"):
        assert purging.purge()["dead_letters"] == 0
    assert "1 changes have waited for their parent rows" in caplog.text
    assert dict(letters.values_list("instance_pk", "status")) == {"old": "dead", "young": "waiting"}
    letters.update(updated_at=timezone.now() - 2 * DAY)
    assert purging.purge()["dead_letters"] == 1
    assert dict(letters.values_list("instance_pk", "status")) == {"young": "dead"}
