"""The six commands that find differences by pipe: between engines, for every kind of primary key."""

from __future__ import annotations

import io
import json
import sys

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_cqrs_celery import dispatcher
from tests import conftest, network, routing
from tests.fidelity.masters import models as fidelity_masters
from tests.fidelity.replicas import models as fidelity_replicas
from tests.fidelity.test_keys import KEYS
from tests.master_app import models as master
from tests.replica_app import models as replica

PAIRS = [("postgresql", "mariadb"), ("postgresql", "sqlite"), ("mariadb", "postgresql"), ("sqlite", "sqlite")]


class Wire(network.Network):
    def close(self):
        pass


@pytest.fixture
def wire(monkeypatch, transactional_db):
    wire = Wire()
    monkeypatch.setattr(dispatcher, "Publisher", lambda: wire)
    return wire


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request, transactional_db):
    conftest.use_pair(*request.param)
    return request.param


def pipe(monkeypatch, *commands):
    """Run commands one after the other, each on what the one before has printed; returns what the last has."""
    text = ""
    for words in commands:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        out = io.StringIO()
        call_command(*words, stdout=out)
        text = out.getvalue()
    return text


def sync_changed(monkeypatch, cqrs_id, *options):
    return pipe(
        monkeypatch, ("cqrs_diff_master", "--cqrs-id", cqrs_id, *options), ("cqrs_diff_replica",), ("cqrs_diff_sync",)
    )


def sync_deleted(monkeypatch, cqrs_id, *options):
    return pipe(
        monkeypatch, ("cqrs_deleted_diff_replica", "--cqrs-id", cqrs_id, *options), ("cqrs_deleted_diff_master",),
        ("cqrs_deleted_sync_replica",),
    )  # fmt: skip


def state(model, *fields):
    return set(model.objects.values_list("pk", "cqrs_revision", *fields))


def test_every_primary_key(pair, wire, monkeypatch):
    for name, keys in KEYS.items():
        master_model, replica_model = getattr(fidelity_masters, name), getattr(fidelity_replicas, name)
        keys = [key for key in keys if key != ""]
        master_model.cqrs.bulk_create([master_model(pk=key, note="there") for key in keys])
        master_model.cqrs.bulk_update(master_model.objects.all(), note="changed")
        wire.run()
        wire.messages.clear()
        assert state(master_model, "note") == state(replica_model, "note")
        lost, older = keys[0], keys[1]
        replica_model.objects.filter(pk=lost).delete()
        replica_model.objects.filter(pk=older).update(cqrs_revision=0, note="old")
        assert "2 rows sent to cqrs_tests" in sync_changed(monkeypatch, master_model.CQRS_ID, "--batch", "3")
        assert sum(message.changes for message in wire.messages) == 2
        assert {message.queue for message in wire.messages} == {"cqrs_tests"}
        wire.deliver()
        wire.messages.clear()
        assert state(master_model, "note") == state(replica_model, "note")
        master_model._base_manager.using(routing.current["master"]).filter(pk=lost)._raw_delete(
            routing.current["master"]
        )
        assert "1 rows deleted" in sync_deleted(monkeypatch, master_model.CQRS_ID, "--batch", "3")
        assert state(master_model, "note") == state(replica_model, "note")


def fill(wire, count=5):
    rows = master.Country.cqrs.bulk_create([master.Country(iso=f"c{n}", name=f"n{n}") for n in range(count)])
    wire.run()
    return rows


def test_subset_under_other_names_and_a_filter(pair, wire, monkeypatch):
    fill(wire)
    replica.Country.objects.filter(code__in=["c1", "c2", "c3"]).update(cqrs_revision=0, label="drifted")
    master.Country.cqrs.bulk_update(master.Country.objects.all(), name="new")
    wire.pump()
    wire.messages.clear()
    sync_changed(monkeypatch, "country", "--filter", '{"iso__in": ["c1", "c2"]}')
    wire.deliver()
    assert set(replica.Country.objects.filter(label="new").values_list("pk", flat=True)) == {"c1", "c2"}


def test_rows_that_are_not_replicated_any_more(pair, wire, monkeypatch):
    fill(wire)
    monkeypatch.setattr(master.Country, "is_sync_instance", lambda self: self.iso != "c4")
    assert "0 rows sent" in sync_changed(monkeypatch, "country")
    assert "1 rows deleted" in sync_deleted(monkeypatch, "country")
    assert set(replica.Country.objects.values_list("pk", flat=True)) == {"c0", "c1", "c2", "c3"}


def test_nothing_is_lost_that_changes_on_the_way(pair, wire, monkeypatch):
    rows = fill(wire)
    for row in rows[:2]:
        row.delete()
    wire.pump()
    wire.messages.clear()  # the broker has lost them
    listed = pipe(monkeypatch, ("cqrs_deleted_diff_replica", "--cqrs-id", "country"), ("cqrs_deleted_diff_master",))
    again = master.Country.objects.create(iso="c0", name="created again")
    wire.run()
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    out = io.StringIO()
    call_command("cqrs_deleted_sync_replica", stdout=out)
    assert "1 rows deleted, 1 have changed since and stay" in out.getvalue()
    assert replica.Country.objects.get(pk=again.pk).label == "created again"
    assert not replica.Country.objects.filter(pk="c1").exists()
    again.name = "goes on"
    again.save()
    wire.run()
    assert replica.Country.objects.get(pk=again.pk).label == "goes on"


def test_row_that_was_deleted_past_the_orm_can_come_back(pair, wire, monkeypatch):
    rows = fill(wire, 2)
    for _ in range(3):
        rows[0].save()
    wire.run()
    using = routing.current["master"]
    master.Country._base_manager.using(using).filter(pk="c0")._raw_delete(using)
    sync_deleted(monkeypatch, "country")
    assert not replica.Country.objects.filter(pk="c0").exists()
    master.Country.objects.create(iso="c0", name="back")
    wire.run()
    assert replica.Country.objects.get(pk="c0").label == "back"


@pytest.mark.parametrize(
    ("command", "head", "line", "said"),
    [
        ("cqrs_diff_replica", "country,now", '[["c0", "x"]]', "pair of primary key and revision"),
        ("cqrs_diff_replica", "country,now", "{", "no JSON"),
        ("cqrs_diff_sync", "country,now,q", '[["c0"]]', "no primary key"),
        ("cqrs_diff_sync", "ticket,now,q", '["c0"]', "code"),
        ("cqrs_deleted_diff_master", "country,now", '["c0"]', "pair of primary key and revision"),
        ("cqrs_deleted_sync_replica", "country,now", '[["c0", -1]]', "no revision"),
        ("cqrs_deleted_sync_replica", "author,now", '[["abc", 1]]', "id"),
    ],
)
def test_bad_line_is_named_and_the_others_are_read(command, head, line, said, wire, monkeypatch, capsys):
    good = '["c0"]' if command == "cqrs_diff_sync" else '[["c0", 0]]'
    good = good if head.startswith("country") else "[]"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{head}\n{good}\n{line}\n{good}\n"))
    with pytest.raises(CommandError, match="1 lines"):
        call_command(command)
    error = capsys.readouterr().err
    assert "line 3 was left out" in error and said in error


@pytest.mark.parametrize(
    ("command", "head", "said"),
    [
        ("cqrs_diff_replica", "", "first line"),
        ("cqrs_diff_replica", "nobody,now", "nobody"),
        ("cqrs_diff_sync", "country,now", "first line"),
        ("cqrs_deleted_diff_master", "[1, 2]", "'[1'"),
        ("cqrs_deleted_sync_replica", "no comma", "first line"),
    ],
)
def test_stream_of_something_else_is_refused(command, head, said, monkeypatch, transactional_db):
    monkeypatch.setattr(sys, "stdin", io.StringIO(head))
    with pytest.raises(CommandError, match=said.replace("[", r"\[")):
        call_command(command)


def test_options_are_checked(transactional_db):
    for words in (
        ("cqrs_diff_master", "--cqrs-id", "nobody"),
        ("cqrs_diff_master", "--cqrs-id", "author", "--batch", "0"),
        ("cqrs_diff_master", "--cqrs-id", "author", "--filter", "no json"),
        ("cqrs_diff_master", "--cqrs-id", "author", "--filter", "[1]"),
        ("cqrs_diff_master", "--cqrs-id", "author", "--filter", json.dumps({"nothing": 1})),
        ("cqrs_deleted_diff_replica", "--cqrs-id", "nobody"),
    ):
        with pytest.raises(CommandError):
            call_command(*words)


def test_queue_of_none_is_every_replica(wire, monkeypatch, settings):
    fill(wire, 1)
    wire.messages.clear()
    monkeypatch.setattr(sys, "stdin", io.StringIO(f'country,{timezone.now()},None\n["c0"]\n'))
    call_command("cqrs_diff_sync")
    assert [message.queue for message in wire.messages] == [None]
