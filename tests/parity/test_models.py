"""Models of every kind: what Django and its neighbours make of them replicates as well."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync

from django_cqrs_celery.registries import MasterRegistry
from tests.parity.masters import models as master
from tests.parity.mixed import sent
from tests.parity.replicas import models as replica


def test_mptt(net):
    """models with other metaclasses (django-mptt)

    The tree of each side is kept by django-mptt itself; what travels is the parent.
    """
    root = master.Category.objects.create(name="root")
    branches = [master.Category.objects.create(name=f"b{n}", parent=root) for n in range(2)]
    leaf = master.Category.objects.create(name="leaf", parent=branches[0])
    net.run(strict=True)
    assert [row.name for row in replica.Category.objects.get(name="leaf").get_ancestors()] == ["root", "b0"]
    leaf.refresh_from_db()
    leaf.move_to(branches[1])
    leaf.save()
    net.run(strict=True)
    assert [row.name for row in replica.Category.objects.get(name="leaf").get_ancestors()] == ["root", "b1"]
    master.Category.objects.get(name="b1").delete()
    net.run(strict=True)
    assert sorted(replica.Category.objects.values_list("name", flat=True)) == ["b0", "root"]


def test_multi_table(net):
    """multi-table inheritance

    A row of two tables is a row of two models: each gets its own change, with its own previous values.
    """
    car = master.Car.objects.create(name="a", doors=2)
    net.run(strict=True)
    car.name, car.doors = "b", 4
    car.save()
    found = {change["cqrs_id"]: change for change in sent(net)}
    assert found["parity.car"]["previous_data"] == {"doors": 2}
    assert found["parity.vehicle"]["instance_data"]["name"] == "b"
    net.run(strict=True)
    assert replica.Car.objects.values_list("id", "name", "doors").get() == (car.pk, "b", 4)
    assert replica.Vehicle.objects.values_list("id", "name").get() == (car.pk, "b")
    master.Vehicle.objects.get().delete()
    net.run(strict=True)
    assert not replica.Car.objects.exists() and not replica.Vehicle.objects.exists()


def test_proxies(net):
    """proxies"""
    master.Vehicle.objects.create(name="a")
    net.run()
    master.LoudVehicle.objects.get().shout()
    master.LoudVehicle.cqrs.bulk_create([master.LoudVehicle(name="b")])
    net.run(strict=True)
    assert sorted(replica.Vehicle.objects.values_list("name", "cqrs_revision")) == [("A", 1), ("b", 0)]
    master.LoudVehicle.objects.filter(name="A").update(name="c")
    master.LoudVehicle.objects.get(name="b").delete()
    net.run(strict=True)
    assert replica.Vehicle.objects.get().name == "c"
    assert MasterRegistry.models["parity.vehicle"] is master.Vehicle


def test_abstract_bases(net):
    """abstract bases"""
    assert not any(model._meta.abstract for model in MasterRegistry.models.values())
    assert all(model is not master.Named for model, _ in MasterRegistry.refused)
    vehicle = master.Vehicle.objects.create(name="a")
    net.run(strict=True)
    assert replica.Vehicle.objects.get().pk == vehicle.pk


def test_generic_foreign_keys(net):
    """generic foreign keys

    Their two columns travel as they are; which model a content type is, each service counts for itself.
    """
    label = master.Label.objects.create(text="t", content_type_id=7, object_id=3)
    net.run(strict=True)
    assert replica.Label.objects.values_list("id", "content_type", "object_id").get() == (label.pk, 7, 3)
    label.object_id = 4
    label.save()
    net.run(strict=True)
    assert replica.Label.objects.get().object_id == 4


def test_asynchronous(net):
    """the asynchronous ORM"""

    async def work():
        account = await master.Account.objects.acreate(name="a")
        account.name = "b"
        await account.asave()
        account.name = "c"
        await account.asave(update_fields=["name"], update_cqrs_fields=True)
        await master.Account.cqrs.abulk_create([master.Account(name="d"), master.Account(name="e")])
        await master.Account.objects.filter(name="d").aupdate(name="f")
        await master.Account.cqrs.abulk_update(master.Account.objects.filter(name="f"), name="g")
        await (await master.Account.objects.aget(name="e")).adelete()

    async_to_sync(work)()
    net.run(strict=True)
    assert sorted(replica.Account.objects.values_list("title", "cqrs_revision")) == [("c", 2), ("g", 2)]


@pytest.fixture(autouse=True)
def _silent_hooks(monkeypatch):
    monkeypatch.setattr(replica.Account, "fails_with", [])
