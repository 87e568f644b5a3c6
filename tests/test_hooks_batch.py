"""Batches that go through hooks: rows are read ahead and savepoints held back, and nobody can tell."""

from __future__ import annotations

import uuid

import pytest
from django.db import IntegrityError, connections, models, transaction

from django_cqrs_celery import intake
from django_cqrs_celery.models import DeadLetter
from tests import routing
from tests.master_app import models as master
from tests.replica_app import models as replica

pytestmark = pytest.mark.usefixtures("engine")


def countries(net, *codes):
    """Countries on both sides, and then a message for a change of each, to be applied as one batch."""
    rows = [master.Country.objects.create(iso=code, name=code, population=1) for code in codes]
    net.run()
    return change(net, rows)


def change(net, rows):
    net.messages.clear()
    for row in rows:
        row.population += 1
        row.save()
        net.pump()
    return [message.body for message in net.messages]


def seen():
    return dict(replica.Country.objects.values_list("code", "seen"))


def test_what_a_hook_writes_to_another_row_of_the_batch_stays(net, monkeypatch):
    """The other row was read before; its ``save()`` would write back what it was."""

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        replica.Country.objects.exclude(pk=self.pk).update(seen=models.F("seen") + 1)
        for name, value in mapped_data.items():
            setattr(self, name, value)
        self.save()
        return self

    bodies = countries(net, "AA", "BB", "CC")
    monkeypatch.setattr(replica.Country, "cqrs_update", cqrs_update)
    assert intake.take(bodies).applied == 3
    assert seen() == {"AA": 9, "BB": 9, "CC": 9}
    assert set(replica.Country.objects.values_list("people", flat=True)) == {2}


def test_a_second_change_of_a_row_in_the_batch_finds_the_row_as_the_first_left_it(net, monkeypatch):
    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        self.seen += 1
        return original(self, sync, mapped_data, previous_data=previous_data)

    original = replica.Country.cqrs_update
    rows = [master.Country.objects.create(iso="AA", name="AA", population=1)]
    net.run()
    bodies = change(net, rows) + change(net, rows) + change(net, rows)
    monkeypatch.setattr(replica.Country, "cqrs_update", cqrs_update)
    assert intake.take(bodies).applied == 3
    assert seen() == {"AA": 10}


@pytest.mark.parametrize("bad", [{"AA"}, {"BB"}, {"CC"}, {"AA", "BB"}, {"AA", "BB", "CC"}])
def test_changes_that_the_database_refuses_leave_no_trace_and_the_others_land(net, monkeypatch, bad):
    committed = []

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        transaction.on_commit(lambda: committed.append(self.pk), using=routing.current["replica"])
        done = original(self, sync, mapped_data, previous_data=previous_data)
        if self.pk in bad:
            replica.Country.objects.create(code=self.pk, label="twice", people=0, cqrs_revision=0, cqrs_updated=STAMP)
        return done

    original = replica.Country.cqrs_update
    bodies = countries(net, "AA", "BB", "CC")
    monkeypatch.setattr(replica.Country, "cqrs_update", cqrs_update)
    assert intake.take(bodies).failed == len(bad)
    people = dict(replica.Country.objects.values_list("code", "people"))
    assert people == {code: 1 if code in bad else 2 for code in ("AA", "BB", "CC")}
    assert set(committed) == {"AA", "BB", "CC"} - bad
    assert set(DeadLetter.objects.filter(status="pending").values_list("instance_pk", flat=True)) == bad


STAMP = "2026-01-01T00:00:00+00:00"


def test_a_hook_may_catch_errors_of_its_own_savepoints(net, monkeypatch):
    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        alias = routing.current["replica"]
        with transaction.atomic(using=alias), transaction.atomic(using=alias):
            pass
        with pytest.raises(IntegrityError), transaction.atomic(using=alias):
            with transaction.atomic(using=alias):
                replica.Country.objects.filter(pk=self.pk).update(seen=99)
            replica.Country.objects.create(code=self.pk, label="twice", people=0, cqrs_revision=0, cqrs_updated=STAMP)
        with pytest.raises(LookupError), transaction.atomic(using=alias):
            raise LookupError
        return original(self, sync, mapped_data, previous_data=previous_data)

    original = replica.Country.cqrs_update
    bodies = countries(net, "AA", "BB", "CC")
    monkeypatch.setattr(replica.Country, "cqrs_update", cqrs_update)
    assert intake.take(bodies).applied == 3
    assert seen() == {"AA": 7, "BB": 7, "CC": 7}
    assert set(replica.Country.objects.values_list("people", flat=True)) == {2}


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)  # where savepoints are held back
def test_an_update_takes_one_round_trip(net, monkeypatch):
    """Ten changes more, ten statements more."""
    backend = type(connections["postgresql_replica"].cursor().cursor)
    executed, execute = [], backend.execute
    monkeypatch.setattr(backend, "execute", lambda self, sql, *args: executed.append(sql) or execute(self, sql, *args))

    def batch(number):
        rows = [master.Ticket.objects.create(code=uuid.uuid4(), title="new") for _ in range(number)]
        net.run()
        net.messages.clear()
        for row in rows:
            row.title = "changed"
            row.save()
            net.pump()
        executed.clear()
        assert intake.take([message.body for message in net.messages]).applied == number
        return len(executed)

    assert batch(15) - batch(5) == 10
