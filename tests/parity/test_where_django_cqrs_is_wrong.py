"""What django-cqrs gets wrong, as it was measured on 3.1.0, and what is right."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from django.db import models, transaction

from django_cqrs_celery import intake
from django_cqrs_celery.dataclasses import dumps, encode_message
from django_cqrs_celery.models import DeadLetter
from tests import routing
from tests.fidelity.cases import CASES
from tests.fidelity.masters import models as fidelity_master
from tests.fidelity.replicas import models as fidelity_replica
from tests.master_app import models as shop_master
from tests.parity.masters import models as master
from tests.parity.mixed import change, sent
from tests.parity.replicas import models as replica
from tests.replica_app import models as shop_replica


class Undo(Exception):
    pass


def atomic():
    return transaction.atomic(using=routing.current["master"])


def test_save_after_delete(net):
    """SAVE older than a DELETE arrives later"""
    vehicle = master.Vehicle.objects.create(name="a")
    net.pump()
    vehicle.delete()
    net.pump()
    net.deliver(1)
    net.deliver(0)
    assert not replica.Vehicle.objects.exists()


def test_delete_before_row(net):
    """DELETE older than the row arrives

    Late, and after the row was created again under its key.
    """
    vehicle = master.Vehicle.objects.create(name="a")
    pk = vehicle.pk
    vehicle.delete()
    net.pump()
    master.Vehicle.objects.create(pk=pk, name="b")
    net.pump()
    net.deliver(1)
    net.deliver(0)
    assert replica.Vehicle.objects.get().name == "b"


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"], indirect=True)  # SQLite keeps no so many digits
def test_decimals(net, engine):
    """DecimalField with 18+ digits"""
    weight = Decimal("123456789012345678.99")
    master.Parcel.objects.create(weight=weight)
    assert sent(net)[0]["instance_data"]["weight"] == "123456789012345678.99"
    wide = shop_master.Author.objects.create(name="a")
    shop_master.Book.objects.create(title="b", author=wide, price=Decimal("1234567890.12"))
    net.run()
    assert shop_replica.Book.objects.get().price == Decimal("1234567890.12")


@pytest.mark.parametrize("column", ["duration", "time", "binary", "file", "json"])
def test_fields(net, column):
    """DurationField, TimeField, BinaryField, FileField, JSON null

    A save does not fail for them, and each value arrives; ``tests.fidelity`` has the table for every engine.
    """
    values = [value for value, hard in CASES[column].plain_values() if not hard]
    rows = [fidelity_master.Everything.objects.create(**{column: value}) for value in values]
    net.run(strict=True)
    for row in rows:
        row.refresh_from_db()
        assert getattr(fidelity_replica.Everything.objects.get(pk=row.pk), column) == getattr(row, column)
    if column == "json":
        null = models.Value(None, models.JSONField())
        kept = fidelity_replica.Everything.objects.filter(json=null).values_list("pk", flat=True)
        assert set(kept) == set(fidelity_master.Everything.objects.filter(json=null).values_list("pk", flat=True))
        assert kept


def test_uuid(net):
    """UUID primary key"""
    ticket = shop_master.Ticket.objects.create(title="a")
    net.run(strict=True)
    ticket.delete()
    net.run(strict=True)
    assert not shop_replica.Ticket.objects.exists()


def test_other_key(net):
    """primary key not named id"""
    shop_master.Country.objects.create(iso="nl", name="n")
    net.run()
    shop_replica.Country.objects.update(label="drifted")
    shop_master.Country.objects.get(pk__in=["nl"]).cqrs_sync()
    net.run(strict=True)
    assert shop_replica.Country.objects.values_list("code", "label").get() == ("nl", "n")


def test_direct_syncs(net, monkeypatch, settings):
    """CQRS_ONLY_DIRECT_SYNCS"""
    monkeypatch.setattr(replica.Vehicle, "CQRS_ONLY_DIRECT_SYNCS", True)
    vehicle = master.Vehicle.objects.create(name="a")
    net.run()
    replica.Vehicle.objects.update(name="drifted")
    vehicle.cqrs_sync()
    net.run()
    assert replica.Vehicle.objects.get().name == "drifted"
    vehicle.cqrs_sync(queue=settings.CQRS["queue"])
    net.run()
    assert replica.Vehicle.objects.get().name == "a"


@pytest.mark.parametrize(("text", "left"), [("no", ["old", "new"]), ("false", ["old", "new"]), ("yes", ["new"])])
def test_clear(net, tmp_path, text, left):
    """cqrs_bulk_load --clear=…"""
    file = tmp_path / "vehicles.dump"
    master.Vehicle.objects.create(pk=2, name="new")
    call_command("cqrs_bulk_dump", "-c", "parity.vehicle", "-o", str(file))
    replica.Vehicle.objects.create(id=1, name="old", cqrs_revision=0, cqrs_updated="2026-01-31T12:00:00Z")
    call_command("cqrs_bulk_load", "-i", str(file), f"--clear={text}")
    assert list(replica.Vehicle.objects.order_by("id").values_list("name", flat=True)) == left
    with pytest.raises((CommandError, SystemExit)):
        call_command("cqrs_bulk_load", "-i", str(file), "--clear=perhaps")


def test_databases(net):
    """several databases

    The default database knows nothing of the tables: all is done with the master's and the replica's aliases.
    """
    assert "default" not in routing.current.values()
    with transaction.atomic(using="default"):
        vehicle = master.Vehicle.objects.create(name="a")
        assert len(sent(net)) == 1  # it does not wait for the commit of another database
    net.run(strict=True)
    with pytest.raises(Undo), atomic():
        vehicle.name = "b"
        vehicle.save()
        raise Undo
    assert sent(net) == []


def test_savepoint_values(net):
    """an instance saved, saved again in a savepoint that is rolled back, committed"""
    with atomic():
        vehicle = master.Vehicle.objects.create(name="kept")
        with pytest.raises(Undo), atomic():
            vehicle.name = "gone"
            vehicle.save()
            raise Undo
    net.run(strict=True)
    assert replica.Vehicle.objects.get().name == "kept"


def test_stale_instance(net):
    """a stale instance saved with update_fields"""
    country = shop_master.Country.objects.create(iso="nl", name="old", population=1)
    stale = shop_master.Country.objects.get()
    country.name = "new"
    country.save()
    stale.population = 2
    stale.save(update_fields=["population"], update_cqrs_fields=True)
    net.run(strict=True)
    assert shop_replica.Country.objects.values_list("label", "people").get() == ("new", 2)


def test_bulk_writes(net):
    """objects.bulk_update, QuerySet.update()"""
    rows = [master.Vehicle.objects.create(name=str(n)) for n in range(3)]
    net.run()
    for row in rows:
        row.name = "bulk"
    master.Vehicle.objects.bulk_update(rows[:2], ["name"])
    master.Vehicle.objects.filter(pk=rows[2].pk).update(name="update")
    net.run(strict=True)
    assert list(replica.Vehicle.objects.order_by("id").values_list("name", "cqrs_revision")) == [
        ("bulk", 1), ("bulk", 1), ("update", 1),
    ]  # fmt: skip


def test_saved_again_after_a_savepoint(net):
    """an instance saved, its savepoint rolled back, saved again and committed"""
    vehicle = master.Vehicle.objects.create(name="a")
    net.run()
    with atomic():
        with pytest.raises(Undo), atomic():
            vehicle.name = "gone"
            vehicle.save()
            raise Undo
        vehicle.name = "kept"
        vehicle.save()
    net.run(strict=True)
    assert replica.Vehicle.objects.values_list("name", "cqrs_revision").get() == ("kept", 1)


GOOD = change("parity.vehicle", 1, 0, data={"id": 1, "name": "good"})


def deliver(*bodies):
    return intake.take([body if isinstance(body, bytes) else encode_message([dumps(body)]) for body in bodies])


@pytest.mark.parametrize("body", [b"123", b"null", {**GOOD, "instance_pk": 2, "expires": "tomorrow"}])
def test_poison(net, body):
    """a body such as 123 or null, an expires that does not parse"""
    answer = deliver(body, GOOD)
    assert (answer.again, replica.Vehicle.objects.get().name) == (None, "good")
    assert DeadLetter.objects.count() == 1


@pytest.mark.parametrize(
    "body", [b"{no json", {k: v for k, v in GOOD.items() if k != "instance_pk"}, {**GOOD, "cqrs_id": "nobody"}]
)
def test_unreadable(net, body):
    """body that is no JSON, lacks a key, has an unknown CQRS_ID"""
    deliver(body, GOOD)
    assert replica.Vehicle.objects.get().name == "good"
    letter = DeadLetter.objects.get()
    assert letter.payload and letter.error_message


def test_foreign_key(net):
    """a replica model with a plain ForeignKey"""
    author = shop_master.Author.objects.create(name="a")
    shop_master.Book.objects.create(title="t", author=author)
    net.run(strict=True)
    assert shop_replica.Book.objects.get().author.name == "a"


def test_bulk_create(net):
    """objects.bulk_create"""
    master.Vehicle.objects.bulk_create([master.Vehicle(name="a"), master.Vehicle(name="b")])
    net.run(strict=True)
    assert sorted(replica.Vehicle.objects.values_list("name", flat=True)) == ["a", "b"]




def test_many_to_many(net):
    """many-to-many"""
    topics = [shop_master.Topic.objects.create(name=name) for name in "ab"]
    article = shop_master.Article.objects.create(title="t")
    net.run(strict=True)
    for change_links in (lambda: article.topics.add(*topics), lambda: article.topics.set(topics[:1])):
        change_links()
        net.run(strict=True)
        copied = shop_replica.Article.objects.get(pk=article.pk)
        assert set(copied.topics.values_list("pk", flat=True)) == set(article.topics.values_list("pk", flat=True))
    article.topics.clear()
    net.run(strict=True)
    assert not shop_replica.Article.objects.get(pk=article.pk).topics.exists()
