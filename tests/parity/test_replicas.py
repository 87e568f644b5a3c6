"""Replica models."""

from __future__ import annotations

import datetime
import json
import logging
import uuid

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.exceptions import ApplyError
from django_cqrs_celery.models import DeadLetter
from django_cqrs_celery.registries import ReplicaRegistry
from django_cqrs_celery.tasks import cqrs_apply
from tests import routing
from tests.parity.mixed import change, named
from tests.parity.replicas import models as replica

DATA = {"id": 1, "name": "n", "status": "s", "balance": 5, "owner": 3}
STAMPS = {"cqrs_revision": 0, "cqrs_updated": "2026-01-31T12:00:00+00:00"}
UPDATED = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)
MAPPED = {"number": 1, "title": "n", "state": "s", "owner_id": 3, "cqrs_revision": 0, "cqrs_updated": UPDATED}


def account(revision=0, signal_type="SAVE", pk=1, **keys):
    """A change of an account as it travels."""
    data = {**DATA, "id": pk, **keys.pop("data", {})}
    return change("parity.account", pk, revision, signal_type, data=data, **keys)


def vehicle(revision=0, signal_type="SAVE", pk=1, name="n", **keys):
    return change("parity.vehicle", pk, revision, signal_type, data={"id": pk, "name": name}, **keys)


def apply(*changes):
    """What came of changes that arrive in one message: how many were applied, and how many set aside."""
    answer = cqrs_apply(changes=list(changes))
    return answer["applied"], answer["failed"]


pytestmark = pytest.mark.usefixtures("net")


# --- attributes ----------------------------------------------------------------------------------------------------


def test_cqrs_id():
    """CQRS_ID"""
    assert ReplicaRegistry.get_model_by_cqrs_id("parity.account") is replica.Account
    assert apply(account()) == (1, 0)


def test_mapping():
    """CQRS_MAPPING"""
    apply(account(previous_data={"status": "old", "balance": 1, "owner": 2}))
    assert replica.Account.objects.values_list("number", "title", "state", "owner_id").get() == (1, "n", "s", 3)
    ((_, mapped, previous, _),) = named(replica.Account.calls, "cqrs_create")
    assert mapped == MAPPED
    assert previous == {"state": "old", "owner_id": 2}  # under the replica's names, what is not mapped left out


def test_custom_serialization(net):
    """CQRS_CUSTOM_SERIALIZATION = False

    The hooks get the master's data as it came, and may change it: what failed is tried again with all of it.
    """
    data = {"id": 1, "name": "x" * 51, "publisher": {"id": 2, "name": "P"}, "books": [{"id": 3, "title": "B"}]}
    good = change("parity.author", 1, 0, data={**data, "name": "Ada", "books": [{"id": 3, "nonsense": 1}]})
    assert apply(good) == (0, 1)
    letter = DeadLetter.objects.get()
    kept = TransportPayload.from_dict(json.loads(letter.payload)).instance_data
    assert (kept["publisher"], kept["books"]) == ({"id": 2, "name": "P"}, [{"id": 3, "nonsense": 1}])
    assert apply(change("parity.author", 1, 1, data={**data, "name": "Ada"})) == (1, 0)
    assert replica.Author.objects.get().books.get().title == "B"


def test_select_for_update(engine):
    """CQRS_SELECT_FOR_UPDATE = False

    Whatever it says, the row is locked before it is compared.
    """
    apply(account())
    connection = connections[routing.current["replica"]]
    with CaptureQueriesContext(connection) as queries:
        apply(account(1))
    if connection.features.has_select_for_update:
        assert any("FOR UPDATE" in query["sql"] for query in queries)
    assert replica.Account.objects.get().cqrs_revision == 1


def test_no_db_operations(monkeypatch):
    """CQRS_NO_DB_OPERATIONS = False"""
    monkeypatch.setattr(replica.Quiet, "CQRS_NO_DB_OPERATIONS", True)
    wanted = change("parity.quiet", 1, 0, data={"id": 1, "name": "n"})
    assert apply(wanted) == (0, 1)
    assert "Quiet must define cqrs_save()" in DeadLetter.objects.get().error_message
    seen = []

    def cqrs_save(cls, master_data, previous_data=None, sync=False, meta=None):
        seen.append(master_data)
        return True

    monkeypatch.setattr(replica.Quiet, "cqrs_save", classmethod(cqrs_save))
    assert apply(wanted) == (1, 0)
    assert [data["name"] for data in seen] == ["n"]
    assert not replica.Quiet.objects.exists()


def test_meta(monkeypatch):
    """CQRS_META = False"""
    apply(account(meta={"k": 1}), account(pk=2))
    assert [call[-1] for call in named(replica.Account.calls, "cqrs_save")] == [{"k": 1}, {}]
    monkeypatch.setattr(replica.Account, "CQRS_META", False)
    apply(account(1, meta={"k": 1}))
    assert named(replica.Account.calls, "cqrs_save")[-1][-1] is None


def test_only_direct_syncs(monkeypatch, settings):
    """CQRS_ONLY_DIRECT_SYNCS = False

    Of the SYNCs those that were sent to this queue alone; saves and deletes as always.
    """
    monkeypatch.setattr(replica.Vehicle, "CQRS_ONLY_DIRECT_SYNCS", True)
    apply(vehicle(0, "SYNC"), vehicle(0, "SYNC", queue="another"))
    assert not replica.Vehicle.objects.exists()
    apply(vehicle(0, "SYNC", queue=settings.CQRS["queue"]))
    assert replica.Vehicle.objects.exists()
    apply(vehicle(1, name="saved"))
    assert replica.Vehicle.objects.get().name == "saved"
    apply(vehicle(2, "DELETE"))
    assert not replica.Vehicle.objects.exists()


# --- hooks ---------------------------------------------------------------------------------------------------------


def test_cqrs_save():
    """cqrs_save(master_data, previous_data=None, sync=False, meta=None)"""
    apply(account(previous_data={"status": "old"}, meta={"m": 1}), account(1, "SYNC"))
    first, second = named(replica.Account.calls, "cqrs_save")
    assert first == ({**DATA, **STAMPS}, {"status": "old"}, False, {"m": 1})
    assert second == ({**DATA, **STAMPS, "cqrs_revision": 1}, None, True, {})


def test_cqrs_create():
    """cqrs_create(sync, mapped_data, previous_data=None, meta=None)"""
    apply(account(0, "SYNC"))
    assert named(replica.Account.calls, "cqrs_create") == [(True, MAPPED, None, {})]


def test_cqrs_update():
    """cqrs_update(sync, mapped_data, previous_data=None, meta=None)"""
    apply(account())
    apply(account(1, previous_data={"status": "old"}, data={"name": "m"}))
    wanted = {**MAPPED, "title": "m", "cqrs_revision": 1}
    assert named(replica.Account.calls, "cqrs_update") == [(False, wanted, {"state": "old"}, {})]


def test_cqrs_delete():
    """cqrs_delete(master_data, meta=None)"""
    apply(account())
    apply(change("parity.account", 1, 1, "DELETE", data={"custom": {"why": "x"}}, meta={"m": 1}))
    ((data, meta),) = named(replica.Account.calls, "cqrs_delete")
    assert (data["id"], data["custom"], data["cqrs_revision"], meta) == (1, {"why": "x"}, 1, {"m": 1})
    assert not replica.Account.objects.exists()


def test_should_retry():
    """should_retry_cqrs(current_retry, exception=None)"""
    replica.Account.fails_with.append(ValueError("no"))
    apply(account(), account(pk=2, retries=1))
    asked = named(replica.Account.calls, "should_retry_cqrs")
    assert [(retry, str(exception)) for retry, exception in asked] == [(0, "no"), (1, "no")]
    assert sorted(DeadLetter.objects.values_list("instance_pk", "status")) == [("1", "pending"), ("2", "dead")]


def test_retry_delay():
    """get_cqrs_retry_delay(current_retry)"""
    replica.Account.fails_with.append(ValueError("no"))
    apply(account())
    assert named(replica.Account.calls, "get_cqrs_retry_delay") == [(0,)]
    seconds = (DeadLetter.objects.get().next_retry_at - timezone.now()).total_seconds()
    assert 0 < seconds <= 7


def test_raw_replica():
    """RawReplicaMixin"""
    code = str(uuid.uuid4())
    sent = change("parity.parcel", code, 3, data={"code": code, "weight": "1.50"}, previous_data={"weight": "1.00"})
    assert apply(sent, change("parity.parcel", code, 4, "DELETE", data={"code": code})) == (2, 0)
    (_, saved, previous, more), (_, deleted, _) = replica.Parcel.calls
    assert (saved["weight"], previous, more) == ("1.50", {"weight": "1.00"}, {})
    assert (deleted["code"], deleted["id"]) == (code, code)


# --- manager -------------------------------------------------------------------------------------------------------


def test_save_instance():
    """save_instance"""
    manager = replica.Vehicle.cqrs
    data = {"id": 1, "name": "a", **STAMPS}
    assert manager.save_instance(data).name == "a"
    assert manager.save_instance({**data, "name": "b"}) is None  # the same revision
    assert manager.save_instance({**data, "name": "b"}, sync=True).name == "b"
    assert manager.save_instance({**data, "name": "c", "cqrs_revision": 5}).cqrs_revision == 5
    assert manager.save_instance({**data, "name": "d"}, None, True, None).cqrs_revision == 0


def test_create_instance():
    """create_instance"""
    made = replica.Account.cqrs.create_instance(MAPPED, {"state": "old"}, True, {"m": 1})
    assert made.title == "n"
    assert replica.Account.calls == [("cqrs_create", True, MAPPED, {"state": "old"}, {"m": 1})]


def test_update_instance():
    """update_instance"""
    made = replica.Account.objects.create(**MAPPED)
    assert replica.Account.cqrs.update_instance(made, {**MAPPED, "title": "m"}, {"state": "old"}).title == "m"
    assert replica.Account.calls == [("cqrs_update", False, {**MAPPED, "title": "m"}, {"state": "old"}, None)]


def test_delete_instance():
    """delete_instance"""
    replica.Account.objects.create(**MAPPED)
    assert replica.Account.cqrs.delete_instance({"id": 1, **STAMPS})
    assert not replica.Account.objects.exists()
    assert replica.Account.cqrs.delete_instance({"id": 1, **STAMPS})  # also where there is none


# --- rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [account, vehicle], ids=["hooks", "sets"])
class TestRules:
    def row(self, make):
        model = replica.Account if make is account else replica.Vehicle
        return model.objects.values_list("title" if make is account else "name", "cqrs_revision").get()

    def named(self, make, name, revision, signal_type="SAVE", **keys):
        if make is account:
            return account(revision, signal_type, data={"name": name}, **keys)
        return vehicle(revision, signal_type, name=name, **keys)

    def test_older(self, make):
        """older = stale"""
        apply(self.named(make, "new", 2))
        assert apply(self.named(make, "old", 1))[1] == 0
        assert self.row(make) == ("new", 2)

    def test_equal(self, make):
        """equal = duplicate"""
        apply(self.named(make, "first", 2))
        assert apply(self.named(make, "again", 2))[1] == 0
        assert self.row(make) == ("first", 2)
        assert not DeadLetter.objects.exists()

    def test_gap(self, make, caplog):
        """a gap is reported"""
        apply(self.named(make, "a", 1))
        with caplog.at_level(logging.INFO, logger="django_cqrs_celery"):
            apply(self.named(make, "b", 5))
        (said,) = [r.getMessage() for r in caplog.records if getattr(r, "action", "") == "cqrs_gap"]
        assert "lost or filtered out 3" in said
        assert self.row(make) == ("b", 5)

    def test_sync_of_an_older_revision(self, make):
        """a SYNC may set an older revision

        One that is asked for by a person, who says so: ``cqrs_sync --force``. Others leave the newer row.
        """
        apply(self.named(make, "new", 5))
        apply(self.named(make, "old", 1, "SYNC"))
        assert self.row(make) == ("new", 5)
        apply(self.named(make, "old", 1, "SYNC", force=True))
        assert self.row(make) == ("old", 1)

    def test_unknown_fields(self, make):
        """fields that the replica lacks are dropped"""
        sent = self.named(make, "a", 0)
        sent["instance_data"]["unheard_of"] = 1
        assert apply(sent) == (1, 0)

    def test_missing_field(self, make):
        """a required field that is missing fails the change"""
        sent = self.named(make, "a", 0)
        del sent["instance_data"]["name"]
        assert apply(sent) == (0, 1)
        letter = DeadLetter.objects.get()
        assert letter.error_class.endswith(ApplyError.__name__)
        assert ("title" if make is account else "name") in letter.error_message


def test_order_of_hooks():
    """the hooks' order

    ``cqrs_save`` first, which calls ``cqrs_create`` or ``cqrs_update``; changes of a row by their revisions; a stale
    change is asked of no hook; retry hooks only after a failure.
    """
    apply(account(2), account(0), account(1), account(1))
    apply(account(1), account(3, "SYNC"), change("parity.account", 1, 4, "DELETE"))
    assert [call[0] for call in replica.Account.calls] == [
        "cqrs_save", "cqrs_create", "cqrs_save", "cqrs_update", "cqrs_save", "cqrs_update",
        "cqrs_save", "cqrs_update", "cqrs_delete",
    ]  # fmt: skip
    replica.Account.calls.clear()
    replica.Account.fails_with.append(ValueError("no"))
    apply(account(5))
    assert [call[0] for call in replica.Account.calls] == ["cqrs_save", "should_retry_cqrs", "get_cqrs_retry_delay"]
