"""The two columns of a master model: what an instance holds of them after a write, and what the write asks for."""

from __future__ import annotations

import datetime

import pytest
from django.core import serializers
from django.db import connections, transaction
from django.db.models.signals import post_save
from django.test.utils import CaptureQueriesContext

from tests.master_app import models as master

#: Captured by the ORM and by triggers.
MODELS = {"orm": master.Author, "triggers": master.Shelf}
pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def stored(instance):
    return type(instance).objects.values_list("cqrs_revision", "cqrs_updated").get(pk=instance.pk)


def test_instance_holds_what_was_written_and_nothing_is_read_back(model):
    made = model(name="a")
    with CaptureQueriesContext(connections[model.objects.db]) as queries:
        made.save()
    insert = next(q["sql"] for q in queries if q["sql"].startswith("INSERT") and model._meta.db_table in q["sql"])
    assert "cqrs" not in insert.partition("RETURNING")[2]
    assert "cqrs_updated" in made.__dict__ and stored(made) == (made.cqrs_revision, made.cqrs_updated)
    made.save()
    assert stored(made) == (made.cqrs_revision, made.cqrs_updated) and made.cqrs_revision == 1


def test_bulk_writes(model):
    rows = model.objects.bulk_create([model(name="a"), model(name="b")])
    assert [stored(row) for row in model.objects.order_by("pk")] == [(0, row.cqrs_updated) for row in rows]
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    rows = list(model.objects.order_by("pk"))
    for row in rows:
        row.cqrs_updated = moment
    model.objects.bulk_update(rows, ["cqrs_updated"])
    assert [row.cqrs_updated for row in model.objects.all()] == [moment, moment]
    assert model.objects.filter(cqrs_updated=moment).count() == 2
    model.objects.filter(pk=rows[0].pk).update(cqrs_updated=moment + datetime.timedelta(days=1))
    assert model.objects.get(cqrs_updated__gt=moment).pk == rows[0].pk


def test_fixture_that_says_nothing_of_them(model):
    heard = []

    def hear(instance, **kwargs):
        heard.append((instance.cqrs_revision, instance.cqrs_updated))

    post_save.connect(hear, sender=model)
    try:
        found = serializers.deserialize("python", [{"model": model._meta.label, "pk": 7, "fields": {"name": "a"}}])
        with transaction.atomic(using=model.objects.db):
            for row in found:
                row.save(using=model.objects.db)
    finally:
        post_save.disconnect(hear, sender=model)
    assert heard == [stored(model.objects.get(pk=7))]
