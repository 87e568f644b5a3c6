"""Master models."""

from __future__ import annotations

import datetime
import uuid

import pytest
from django.core.checks import run_checks
from django.db import connections, models, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from django_cqrs_celery import modes
from django_cqrs_celery.managers import MasterQuerySet
from django_cqrs_celery.mixins import MasterMixin
from django_cqrs_celery.models import OutboxMessage
from django_cqrs_celery.registries import MasterRegistry
from django_cqrs_celery.utils import bulk_relate_cqrs_serialization
from tests import services
from tests.parity.masters import models as master
from tests.parity.mixed import master_alias, named, sent
from tests.parity.replicas import models as replica


class Undo(Exception):
    pass


def atomic():
    return transaction.atomic(using=master_alias())


@pytest.fixture
def account(net):
    """An account whose creation has been published."""
    owner = master.Owner.objects.create(name="o")
    account = master.Account.objects.create(name="a", status="new", owner=owner)
    net.run()
    master.Account.calls.clear()
    replica.Account.calls.clear()
    return account


# --- attributes ----------------------------------------------------------------------------------------------------


def test_cqrs_id(net):
    """CQRS_ID"""
    master.Account.objects.create(name="a")
    assert [change["cqrs_id"] for change in sent(net)] == ["parity.account"]
    assert MasterRegistry.get_model_by_cqrs_id("parity.account") is master.Account


def test_produce(net):
    """CQRS_PRODUCE = True"""
    row = master.Quiet.objects.create(name="a")
    master.Quiet.cqrs.bulk_create([master.Quiet(name="b")])
    row.cqrs_sync()
    row.delete()
    assert sent(net) == []


def test_fields(net):
    """CQRS_FIELDS = '__all__' | [...]"""
    account = master.Account.objects.create(name="a", notes="secret")
    parcel = master.Parcel.objects.create()
    of_account, of_parcel = (change["instance_data"] for change in sent(net))
    stamps = {"cqrs_revision", "cqrs_updated"}
    assert set(of_account) == {"id", "name", "status", "balance", "owner"} | stamps
    assert of_account["id"] == account.pk
    assert set(of_parcel) == {"code", "weight", "sent"} | stamps
    assert of_parcel["code"] == str(parcel.code)


def test_serializer(net):
    """CQRS_SERIALIZER: Cls(instance).data"""
    person = master.Person.objects.create(first_name="Ada", last_name="Lovelace")
    (change,) = sent(net)
    data = change["instance_data"]
    assert {key: data[key] for key in ("id", "full_name")} == {"id": person.pk, "full_name": "Ada Lovelace"}
    assert data["cqrs_revision"] == 0
    net.deliver()
    assert replica.Person.objects.get().full_name == "Ada Lovelace"


def test_rest_framework(net):
    """CQRS_SERIALIZER: Django REST framework"""
    publisher = master.Publisher.objects.create(name="P")
    with atomic():
        author = master.Author.objects.create(name="Ada", publisher=publisher)
        # Written after the save, in its transaction: part of what is sent all the same.
        book = master.Book.objects.create(title="Notes", author=author)
    data = sent(net)[0]["instance_data"]
    assert data["publisher"] == {"id": publisher.pk, "name": "P"}
    assert data["books"] == [{"id": book.pk, "title": "Notes"}]
    net.run()
    copied = replica.Author.objects.get()
    assert (copied.name, copied.publisher.name, copied.books.get().title) == ("Ada", "P", "Notes")
    author.name, author.publisher = "A. Lovelace", None
    author.save()
    net.run(strict=True)
    copied.refresh_from_db()
    assert (copied.name, copied.publisher, copied.cqrs_revision) == ("A. Lovelace", None, 1)


class TestTrackedFields:
    def test_created(self, net):
        """CQRS_TRACKED_FIELDS = None | [...] | '__all__'

        A new row's values had none before, whatever they are; a relation goes by its name.
        """
        owner = master.Owner.objects.create(name="o")
        master.Account.objects.create(name="a", status="new", owner=owner)
        master.Account.objects.create(name="b", status="new")
        master.Person.objects.create(first_name="x", last_name="y")
        previous = [change["previous_data"] for change in sent(net)]
        assert previous == [{"status": None, "owner": None}, {"status": None}, None]

    def test_updated(self, net, account):
        """CQRS_TRACKED_FIELDS = None | [...] | '__all__'"""
        owner = account.owner_id
        account.status, account.owner, account.name = "old", None, "other"
        account.save()
        assert [change["previous_data"] for change in sent(net)] == [{"status": "new", "owner": owner}]
        net.messages.clear()
        account.save()
        assert [change["previous_data"] for change in sent(net)] == [None]

    def test_all(self, net):
        """CQRS_TRACKED_FIELDS = None | [...] | '__all__'"""
        parcel = master.Parcel.objects.create(weight="1.50", sent=datetime.date(2026, 1, 31))
        (created,) = sent(net)
        assert created["previous_data"] == {"code": None, "weight": None, "sent": None}
        net.messages.clear()
        parcel = master.Parcel.objects.get()
        parcel.weight, parcel.sent = 2, None
        parcel.save()
        assert sent(net)[0]["previous_data"] == {"weight": "1.50", "sent": "2026-01-31"}

    def test_only_what_was_saved(self, net, account):
        """CQRS_TRACKED_FIELDS = None | [...] | '__all__'

        With ``update_fields`` the others keep their previous values for the save that writes them.
        """
        owner = account.owner_id
        account.status, account.owner = "old", None
        account.save(update_fields=["owner"], update_cqrs_fields=True)
        assert sent(net)[0]["previous_data"] == {"owner": owner}
        net.messages.clear()
        account.save()
        assert sent(net)[0]["previous_data"] == {"status": "new"}

    def test_oldest_of_a_transaction(self, net, account):
        """CQRS_TRACKED_FIELDS = None | [...] | '__all__'"""
        with atomic():
            for status in ("one", "two"):
                account.status = status
                account.save()
        assert [change["previous_data"] for change in sent(net)] == [{"status": "new"}]


# --- saving --------------------------------------------------------------------------------------------------------


def test_update_fields(net, account, cqrs):
    """save(update_fields=…, update_cqrs_fields=…)"""
    account.name = "b"
    account.save(update_fields=["name"])
    silent = 1 if services.BY_TRIGGER else 0  # triggers capture every save
    assert len(sent(net)) == silent
    net.messages.clear()
    account.save(update_fields=["name"], update_cqrs_fields=True)
    account.refresh_from_db()
    assert [change["instance_data"]["name"] for change in sent(net)] == ["b"]
    assert account.cqrs_revision == 1 + silent
    net.messages.clear()
    cqrs(master={"CQRS_AUTO_UPDATE_FIELDS": True})
    account.save(update_fields=["name"])
    account.save(update_fields=["name"], update_cqrs_fields=False)
    assert [change["instance_data"]["cqrs_revision"] for change in sent(net)] == [2 + 2 * silent]


def test_revision(net):
    """revision +1 once per transaction and instance"""
    with atomic():
        one = master.Account.objects.create(name="a")
        one.save()
    assert (one.cqrs_revision, [c["instance_data"]["cqrs_revision"] for c in sent(net)]) == (0, [0])
    net.messages.clear()
    with atomic():
        for name in "bcd":
            one.name = name
            one.save()
    one.refresh_from_db()
    assert (one.cqrs_revision, [c["instance_data"]["cqrs_revision"] for c in sent(net)]) == (1, [1])


def test_saves_count(net, account):
    """cqrs_saves_count"""
    account.save()
    assert account.cqrs_saves_count == 0
    with atomic():
        account.save()
        assert account.cqrs_saves_count == 1
        account.save(update_fields=["name"])
        assert account.cqrs_saves_count == 2
        assert master.Account.objects.get().cqrs_saves_count == 0
    assert account.cqrs_saves_count == 0
    # Triggers capture every save, so that the hook is asked for the one of some fields, too.
    assert named(master.Account.calls, "is_sync_instance") == [(0,), (1,), *([(2,)] if services.BY_TRIGGER else [])]


def test_initial_save(net, account):
    """is_initial_cqrs_save"""
    assert account.is_initial_cqrs_save
    with atomic():
        account.save()
        assert account.is_initial_cqrs_save
        account.save()
        assert not account.is_initial_cqrs_save
    assert account.is_initial_cqrs_save


def test_reset_saves_count(net, account):
    """reset_cqrs_saves_count()"""
    with atomic():
        account.save()
        account.save()
        account.reset_cqrs_saves_count()
        assert (account.cqrs_saves_count, account.is_initial_cqrs_save) == (0, True)
        account.save()
        assert account.cqrs_saves_count == 1
    assert [change["instance_data"]["cqrs_revision"] for change in sent(net)] == [1]


def test_save_tracked_fields(net, account):
    """save_tracked_fields()

    For a write of the project's own, past the ORM's signals, of which it tells itself.
    """
    account.status = "old"
    account.save_tracked_fields()
    rows = models.QuerySet(master.Account, using=master_alias()).filter(pk=account.pk)
    rows.update(status="old", cqrs_revision=F("cqrs_revision") + 1)
    master.Account.call_post_update([account], using=master_alias())
    (change,) = sent(net)
    assert (change["previous_data"], change["instance_data"]["cqrs_revision"]) == ({"status": "new"}, 1)


def test_tracked_fields_data(net, account):
    """get_tracked_fields_data()"""
    assert master.Person(first_name="a").get_tracked_fields_data() is None
    owner = account.owner_id
    account.status = "old"
    assert account.get_tracked_fields_data() == {"status": "new"}
    with atomic():
        account.save()
        assert account.get_tracked_fields_data() == {"status": "new"}
        account.owner = None
        account.save()
        assert account.get_tracked_fields_data() == {"status": "new", "owner": owner}
    assert account.get_tracked_fields_data() == {"status": "new", "owner": owner}
    assert named(master.Account.calls, "get_cqrs_meta")[-1][0]["previous_data"] == {"status": "new", "owner": owner}


def test_to_cqrs_dict(net, account, django_assert_num_queries):
    """to_cqrs_dict(using, sync)"""
    data = account.to_cqrs_dict(using=master_alias(), sync=True)
    assert (data["name"], data["owner"], data["cqrs_revision"]) == ("a", account.owner_id, 0)
    account.balance = F("balance") + 5
    account.save()  # the meta hook gets the image, so that it is made while the instance holds an expression
    (meta,) = named(master.Account.calls, "get_cqrs_meta")
    assert meta[0]["instance_data"]["balance"] == 5
    assert account.to_cqrs_dict()["balance"] == 5
    author = master.Author.objects.create(name="Ada", publisher=master.Publisher.objects.create(name="P"))
    with CaptureQueriesContext(connections[master_alias()]) as queries:
        assert author.to_cqrs_dict()["publisher"]["name"] == "P"
    assert len(queries) == 2  # by relate_cqrs_serialization: the author with its publisher, and the books


def test_sync(net, account):
    """cqrs_sync(using, queue) -> bool"""
    assert account.cqrs_sync()
    assert account.cqrs_sync(using=master_alias(), queue="one")
    found = sent(net)
    assert [(change["signal_type"], change.get("queue")) for change in found] == [("SYNC", None), ("SYNC", "one")]
    assert [message.queue for message in net.messages] == [None, "one"]
    assert not master.Account(name="new").cqrs_sync()
    gone = master.Account.objects.get()
    account.delete()
    assert not gone.cqrs_sync()


# --- hooks ---------------------------------------------------------------------------------------------------------


def test_is_sync_instance(net, account):
    """is_sync_instance()"""
    draft = master.Account.objects.create(name="d", status="draft")
    draft.save()
    assert draft.cqrs_sync()
    master.Account.cqrs.bulk_create([master.Account(name="e", status="draft")])
    assert sent(net) == []
    # Bulk writes ask the row as it is afterwards.
    master.Account.objects.filter(pk=draft.pk).update(status="ready")
    assert [change["instance_data"]["status"] for change in sent(net)] == ["ready"]
    master.Account.cqrs.bulk_update(master.Account.objects.filter(pk=draft.pk), status="draft")
    assert len(sent(net)) == 1
    # The delete of a row goes in any case: the row may have been replicated earlier.
    draft.delete()
    assert [change["signal_type"] for change in sent(net)] == ["SAVE", "DELETE"]


def test_get_cqrs_meta(net, account, cqrs):
    """get_cqrs_meta(**kwargs)"""
    account.save()
    assert named(master.Account.calls, "get_cqrs_meta")[0][0]["previous_data"] == {}
    master.Account.calls.clear()
    account.status = "old"
    account.save()
    account.cqrs_sync()
    account.delete()
    saved, synced, deleted = (kwargs for (kwargs,) in named(master.Account.calls, "get_cqrs_meta"))
    assert (saved["signal_type"], saved["previous_data"]) == ("SAVE", {"status": "new"})
    assert saved["instance_data"]["status"] == "old"
    assert (synced["signal_type"], synced["previous_data"]) == ("SYNC", None)
    assert deleted["signal_type"] == "DELETE"
    assert deleted["instance_data"]["custom"] == {"name": "a"}
    # Of a row that is gone there is nothing else to send.
    assert [change["meta"] for change in sent(net)] == [{"by": "hook"}]
    net.deliver()
    assert [call[-1] for call in replica.Account.calls] == [{"by": "hook"}] * len(replica.Account.calls)


def test_relate_cqrs_serialization(net):
    """relate_cqrs_serialization(queryset)"""
    for number in range(10):
        publisher = master.Publisher.objects.create(name=f"p{number}")
        master.Author.objects.create(name=f"a{number}", publisher=publisher)
    with CaptureQueriesContext(connections[master_alias()]) as queries:
        assert len(sent(net)) == 10
    read = [query["sql"] for query in queries if "parity_masters_publisher" in query["sql"]]
    assert len(read) == 1 and "JOIN" in read[0]


def test_custom_delete_data(net, account):
    """get_custom_cqrs_delete_data()"""
    pk = account.pk
    account.delete()
    (change,) = sent(net)
    assert change["instance_data"]["custom"] == {"name": "a"}
    net.deliver()
    ((data, meta),) = named(replica.Account.calls, "cqrs_delete")
    assert (data["custom"], data["id"], meta) == ({"name": "a"}, pk, {"by": "hook"})


def test_call_post_bulk_create(net, monkeypatch):
    """call_post_bulk_create

    The manager goes through it, so that a project can override it; a project that writes rows itself calls it.
    """
    seen = []
    default = master.Account.call_post_bulk_create

    def override(cls, instances, using=None):
        seen.append((len(instances), using))
        default(instances, using=using)

    monkeypatch.setattr(master.Account, "call_post_bulk_create", classmethod(override))
    master.Account.cqrs.bulk_create([master.Account(name="a"), master.Account(name="b")])
    assert seen == [(2, master_alias())]
    rows = [master.Account(name="c")]
    models.QuerySet(master.Account, using=master_alias()).bulk_create(rows)
    master.Account.call_post_bulk_create(rows, using=master_alias())
    assert sorted(change["instance_data"]["name"] for change in sent(net)) == ["a", "b", "c"]


def test_call_post_update(net, account, monkeypatch):
    """call_post_update"""
    seen = []
    default = master.Account.call_post_update

    def override(cls, instances, using=None):
        seen.append([(row.name, row.cqrs_revision, row.get_tracked_fields_data()) for row in instances])
        default(instances, using=using)

    monkeypatch.setattr(master.Account, "call_post_update", classmethod(override))
    assert master.Account.cqrs.bulk_update(master.Account.objects.filter(name="a"), name="b", status="old") == 1
    assert seen == [[("b", 1, {"status": "new"})]]
    (change,) = sent(net)
    assert (change["instance_data"]["name"], change["previous_data"]) == ("b", {"status": "new"})


# --- managers ------------------------------------------------------------------------------------------------------


def test_managers():
    """managers: objects, cqrs"""
    for manager in (master.Account.objects, master.Account.cqrs):
        assert isinstance(manager.all(), MasterQuerySet)
    assert master.Account._default_manager is master.Account.objects


def test_bulk_create(net):
    """Model.cqrs.bulk_create(objs, **kw)"""
    rows = [master.Account(name=str(n), status="new") for n in range(5)]
    made = master.Account.cqrs.bulk_create(rows, batch_size=2)
    assert made == rows
    found = sent(net)
    assert sorted(change["instance_pk"] for change in found) == sorted(row.pk for row in rows)
    assert [change["previous_data"] for change in found] == [{"status": None}] * 5
    net.run()
    assert replica.Account.objects.count() == 5


def test_bulk_update(net, account):
    """Model.cqrs.bulk_update(queryset, **kw)"""
    other = master.Account.objects.create(name="a", status="other")
    net.run()
    rows = master.Account.objects.filter(name="a")
    assert master.Account.cqrs.bulk_update(rows, name="b", status="old", balance=F("balance") + 1) == 2
    found = {change["instance_pk"]: change for change in sent(net)}
    assert {pk: change["previous_data"] for pk, change in found.items()} == {
        account.pk: {"status": "new"}, other.pk: {"status": "other"},
    }  # fmt: skip
    assert {change["instance_data"]["cqrs_revision"] for change in found.values()} == {1}
    with pytest.raises(Undo), atomic():
        master.Account.cqrs.bulk_update(master.Account.objects.all(), name="c")
        raise Undo
    net.run()
    assert set(replica.Account.objects.values_list("title", "state", "cqrs_revision")) == {("b", "old", 1)}


def test_bulk_relate(net, settings, monkeypatch):
    """bulk_relate_cqrs_serialization(cqrs_id=None)

    Where each commit is published at once, the rows of the block are read together.
    """
    monkeypatch.setattr(modes._local, "publisher", net)
    settings.CQRS = {**settings.CQRS, "master": {"dispatch": "on_commit"}}
    publishers = [master.Publisher.objects.create(name=f"p{n}") for n in range(5)]

    def create():
        for publisher in publishers:
            master.Author.objects.create(name="a", publisher=publisher)

    def reads(function):
        with CaptureQueriesContext(connections[master_alias()]) as queries:
            function()
        return len([q for q in queries if 'SELECT "parity_masters_book"' in q["sql"]])

    assert reads(create) == 5
    decorated = bulk_relate_cqrs_serialization()(create)
    assert reads(decorated) == 1

    def failing():
        with pytest.raises(Undo), bulk_relate_cqrs_serialization(cqrs_id="parity.author"):
            create()
            raise Undo

    assert reads(failing) == 1
    net.deliver()
    assert replica.Author.objects.count() == 15


# --- transactions --------------------------------------------------------------------------------------------------


def test_one_message(net, account):
    """one message per instance and transaction"""
    with atomic():
        for name in "bcd":
            account.name = name
            account.save()
        other = master.Account.objects.create(name="x")
        # Past the ORM: the state at commit is what travels.
        models.QuerySet(master.Account, using=master_alias()).filter(pk=other.pk).update(name="y")
    assert [change["instance_data"]["name"] for change in sent(net)] == ["d", "y"]


def test_rollback(net, account):
    """a rollback sends nothing"""
    with pytest.raises(Undo), atomic():
        account.name = "b"
        account.save()
        master.Account.cqrs.bulk_create([master.Account(name="c")])
        raise Undo
    assert sent(net) == []
    assert not OutboxMessage.objects.filter(status=0).exists()


def test_savepoint(net, account):
    """a rolled-back savepoint sends nothing of what it held"""
    with atomic():
        account.name = "kept"
        account.save()
        with pytest.raises(Undo), atomic():
            account.name = "gone"
            account.save()
            master.Account.objects.create(name="gone")
            raise Undo
    (change,) = sent(net)
    assert (change["instance_data"]["name"], change["instance_data"]["cqrs_revision"]) == ("kept", 1)


# --- checks and order ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "number"),
    [
        ({"CQRS_ID": None}, "E020"),
        ({"CQRS_ID": "parity.account"}, "E021"),
        ({"CQRS_FIELDS": ["name"]}, "E033"),
        ({"CQRS_FIELDS": ["id", "name", "name"]}, "E032"),
        ({"CQRS_FIELDS": ["id", "nobody"]}, "E031"),
        ({"CQRS_TRACKED_FIELDS": ["nobody"]}, "E031"),
        ({"CQRS_FIELDS": ["id"], "CQRS_SERIALIZER": "tests.parity.masters.serializers.PersonSerializer"}, "E034"),
    ],
)
def test_class_is_checked(attributes, number, monkeypatch):
    """the class is checked"""
    monkeypatch.setattr(MasterRegistry, "models", dict(MasterRegistry.models))
    monkeypatch.setattr(MasterRegistry, "refused", [])
    meta = type("Meta", (), {"app_label": "nowhere"})
    body = {"__module__": __name__, "Meta": meta, "name": models.CharField(max_length=9), "CQRS_ID": "checked"}
    type(f"Wrong{uuid.uuid4().hex}", (MasterMixin,), {**body, **attributes})
    assert f"django_cqrs_celery.{number}" in {found.id for found in run_checks(tags=["django_cqrs_celery"])}


def test_order_of_hooks(net, account, cqrs):
    """the hooks' order

    Of an instance: is_sync_instance, the data of a delete, meta, correlation; in the saving thread, before the commit.
    """
    calls = master.Account.calls

    def correlation(signal_type, cqrs_id, instance_pk, queue):
        calls.append(("correlation_function",))

    def meta(obj, **kwargs):
        calls.append(("meta_function",))
        return {}

    cqrs(master={"correlation_function": correlation, "meta_function": meta})
    names = ["is_sync_instance", "get_cqrs_meta", "meta_function", "correlation_function"]
    with atomic():
        account.save()
        assert [call[0] for call in calls] == names
        calls.clear()
        account.cqrs_sync()
        assert [call[0] for call in calls] == names
        calls.clear()
        account.delete()
        assert [call[0] for call in calls] == ["get_custom_cqrs_delete_data", *names[1:]]
        calls.clear()
    net.pump()
    assert calls == []
