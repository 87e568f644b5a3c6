"""Models whose hooks have a say: Django writes the outbox rows of its own saves, triggers those of all other writes."""

from __future__ import annotations

import json

import pytest
from django.db import connections, transaction

from django_cqrs_celery import triggers_upkeep
from tests import routing
from tests.master_app.models import Guarded
from tests.replica_app import models as replica

TABLE = "master_app_guarded"


def run(sql):
    with connections[routing.current["master"]].cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture
def heard(engine, net):
    """Tells what the replica was told since it was last asked; both sides are equal then, but for what is secret."""

    def ask():
        net.pump()
        changes = [change for message in net.messages for change in json.loads(message.body)[1]["changes"]]
        net.deliver()
        net.messages.clear()
        columns = ("pk", "name", "cqrs_revision")
        public = [row for row in Guarded.objects.values_list(*columns) if not row[1].startswith("secret")]
        assert sorted(replica.Guarded.objects.values_list(*columns)) == sorted(public)
        return [
            (c["signal_type"], c["instance_pk"], c["instance_data"]["cqrs_revision"], (c.get("meta") or {}).get("of"))
            for c in changes
        ]

    return ask


def test_saves_and_plain_sql_take_turns(heard):
    row = Guarded.objects.create(pk=1, name="a")
    assert heard() == [("SAVE", 1, 0, "a")]
    run(f"UPDATE {TABLE} SET name = 'b' WHERE id = 1")
    assert heard() == [("SAVE", 1, 1, None)]
    row.name = "c"
    row.save()
    assert row.cqrs_revision in (1, 2)  # Django 5.2 counts on from what was loaded
    assert heard() == [("SAVE", 1, 2, "c")]
    run(f"INSERT INTO {TABLE} (id, name) VALUES (2, 'plain')")
    assert heard() == [("SAVE", 2, 0, None)]
    run(f"UPDATE {TABLE} SET name = 'plain' WHERE id = 2")
    assert heard() == []


def test_in_one_transaction(heard):
    using = routing.current["master"]
    with transaction.atomic(using=using):
        row = Guarded.objects.create(pk=1, name="a")
        run(f"UPDATE {TABLE} SET name = 'b' WHERE id = 1")
    (change,) = heard()
    assert change[:2] == ("SAVE", 1)
    before = change[2]
    with transaction.atomic(using=using):
        with pytest.raises(ValueError), transaction.atomic(using=using):
            row.name = "taken back"
            row.save()
            raise ValueError
        run(f"UPDATE {TABLE} SET name = 'c' WHERE id = 1")
    assert heard() == [("SAVE", 1, before + 1, None)]


def test_what_is_not_replicated(heard, net):
    """A save says nothing; plain SQL on the same row is captured, since nobody asks the hook."""
    row = Guarded.objects.create(pk=1, name="secret")
    assert heard() == []
    row.name = "public"
    row.save()
    assert heard() == [("SAVE", 1, 1, "public")]
    run(f"UPDATE {TABLE} SET name = 'secret' WHERE id = 1")
    net.pump()
    net.deliver()
    assert replica.Guarded.objects.get().name == "secret"


def test_deletes(heard):
    for number in range(1, 5):
        Guarded.objects.create(pk=number, name=f"n{number}")
    heard()
    Guarded.objects.get(pk=1).delete()
    Guarded.objects.filter(pk=2).delete()
    Guarded.objects.filter(pk=3)._raw_delete(routing.current["master"])
    run(f"DELETE FROM {TABLE} WHERE id = 4")
    of = {1: "n1", 2: "n2", 3: None, 4: None}
    assert sorted(heard()) == [("DELETE", number, 1, name) for number, name in of.items()]


def test_bulk_writes(heard):
    Guarded.objects.bulk_create([Guarded(pk=1, name="a"), Guarded(pk=2, name="secret")])
    assert heard() == [("SAVE", 1, 0, "a")]
    Guarded.objects.filter(pk=1).update(name="b")
    assert heard() == [("SAVE", 1, 1, "b")]
    row = Guarded.objects.get(pk=1)
    row.name = "c"
    Guarded.objects.bulk_update([row], ["name"])
    assert heard() == [("SAVE", 1, 2, "c")]


def test_the_key_of_a_deleted_row(heard):
    """Whoever deletes it and whoever creates it anew, the revision goes on."""
    Guarded.objects.create(pk=1, name="a").delete()
    run(f"INSERT INTO {TABLE} (id, name) VALUES (1, 'b')")
    run(f"DELETE FROM {TABLE} WHERE id = 1")
    Guarded.objects.create(pk=1, name="c")
    assert [change[2] for change in heard()] == [3, 4]  # of two deletes the last goes out


def test_triggers_that_are_taken_away_from_under_a_running_process(heard):
    """It writes revisions that only triggers turn back; who installs them again has this done, too."""
    row = Guarded.objects.create(pk=1, name="a")
    assert heard() == [("SAVE", 1, 0, "a")]
    (found,) = (each for each in triggers_upkeep.sets(routing.current["master"]) if each.cqrs_id == "guarded")
    for sql in found.constraint.uninstall_sql(Guarded, connections[found.alias]):
        run(sql)
    row.name = "b"
    row.save()
    Guarded.objects.create(pk=2, name="c")
    assert Guarded.objects.filter(cqrs_revision__lt=0).count() == 2
    found.install()
    assert heard()[:2] == [("SAVE", 1, 1, "b"), ("SAVE", 2, 0, "c")]
