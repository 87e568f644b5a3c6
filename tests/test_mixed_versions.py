"""Services of different releases: what one sends the other is applied or kept, and applied when both have caught up."""

from __future__ import annotations

import json

import pytest

from django_cqrs_celery import dataclasses, dead_letters, intake
from django_cqrs_celery.exceptions import DecodeError
from django_cqrs_celery.models import DeadLetter
from tests import services
from tests.replica_app import models as replica
from tests.test_bad_input import body, change
from tests.triggers import scratch

REPLICA = """
    from django_cqrs_celery.mixins import ReplicaMixin

    class Product(ReplicaMixin):
        CQRS_ID = "product"
        id = models.BigIntegerField(primary_key=True)
        name = models.CharField(max_length=20)
"""


def product(pk=1, revision=0, **data):
    """A change of a product, as a master of any release may send it."""
    values = {"id": pk, "name": "Lamp", "cqrs_revision": revision, "cqrs_updated": "2030-01-01T00:00:00+00:00", **data}
    return {"signal_type": "SAVE", "cqrs_id": "product", "instance_pk": pk, "instance_data": values}


@pytest.fixture(params=["sqlite", "postgresql"])
def project(request, tmp_path):
    services.require(request.param)
    with scratch.project(request.param, tmp_path) as made:
        made.engine = request.param
        made.write("catalog", REPLICA)
        made.run("change")
        yield made


RETRY = ("call", ["cqrs_dead_letters", "retry"], {})
LETTERS = ("letters", [], {})


def rows(*names):
    return "rows", ["catalog.Product", *names], {}


def test_a_replica_with_more_and_with_less_than_the_master(project):
    """A column of its own keeps its value; what it has no column for is dropped."""
    project.write("catalog", REPLICA + "        shelf = models.IntegerField(null=True)\n")
    project.run("change")
    own = ("sql", ["UPDATE catalog_product SET shelf = 7"], {})
    sent = project.run_all(
        ("take", [[product(colour="red", size={"cm": 5})]], {}), own,
        ("take", [[product(1, 1, name="Lamp 2", colour="blue"), product(2)]], {}), rows("pk", "name", "shelf"),
    )  # fmt: skip
    assert sent[0] == sent[2] == {}
    assert sent[3] == [[1, "Lamp 2", 7], [2, "Lamp", None]]


def test_a_field_that_the_master_has_renamed(project):
    """Without its value the row cannot be made: the change is kept, and applied once the mapping knows the new name."""
    renamed = product()
    renamed["instance_data"]["title"] = renamed["instance_data"].pop("name")
    kept, nothing = project.run_all(("take", [[renamed]], {}), rows("pk"))
    assert sum(kept.values()) == 1 and nothing == []
    mapping = 'CQRS_ID = "product"\n        CQRS_MAPPING = {"id": "id", "title": "name"}\n'
    project.write("catalog", REPLICA.replace('CQRS_ID = "product"\n', mapping))
    _, settled, found = project.run_all(RETRY, LETTERS, rows("pk", "name"))
    assert settled == {"resolved": 1} and found == [[1, "Lamp"]]


def test_a_field_that_the_replica_renames_with_a_migration(project):
    renamed = product(name="Chair")
    renamed["instance_data"]["title"] = renamed["instance_data"].pop("name")
    project.run("take", [renamed])
    project.write("catalog", REPLICA.replace("name =", "title ="))
    project.run("change", renames=True)
    _, settled, found = project.run_all(RETRY, LETTERS, rows("pk", "title"))
    assert settled == {"resolved": 1} and found == [[1, "Chair"]]


def test_a_model_that_the_replica_has_not_got_yet(project):
    other = {**product(5), "cqrs_id": "chair"}
    kept, settled = project.run_all(("take", [[other, product()]], {}), rows("pk"))
    assert sum(kept.values()) == 1 and settled == [[1]]
    project.write("catalog", REPLICA + REPLICA.replace("Product", "Chair").replace('"product"', '"chair"'))
    project.run("change")
    _, settled, found = project.run_all(RETRY, LETTERS, ("rows", ["catalog.Chair", "pk"], {}))
    assert settled == {"resolved": 1} and found == [[5]]


@pytest.mark.parametrize("project", ["postgresql", "mariadb"], indirect=True)  # SQLite has no limit for text
def test_a_column_that_is_too_narrow(project):
    kept = project.run("take", [product(1, 0, name="a name of more than twenty characters"), product(2)])
    assert sum(kept.values()) == 1
    project.write("catalog", REPLICA.replace("max_length=20", "max_length=50"))
    project.run("change")
    _, settled, found = project.run_all(RETRY, LETTERS, rows("pk"))
    assert settled == {"resolved": 1} and found == [[1], [2]]


# --- the format of messages ----------------------------------------------------------------------------------------


def test_what_a_newer_format_adds_is_ignored(engine):
    more = {**change(1, shoe_size=43), "future": {"a": [1]}}
    intake.take([json.dumps([[], {"version": 99, "changes": [more], "compression": None}, {"chord": None}]).encode()])
    assert replica.Author.objects.count() == 1 and not DeadLetter.objects.exists()


def test_a_change_of_a_kind_that_only_a_newer_release_knows_is_kept(engine):
    intake.take([body(change(1, signal_type="MERGE"), change(2))])
    assert list(replica.Author.objects.values_list("pk", flat=True)) == [2]
    assert json.loads(DeadLetter.objects.get().payload)["signal_type"] == "MERGE"


def test_a_message_that_only_a_newer_release_can_read_is_applied_after_the_upgrade(engine, monkeypatch):
    """The whole body is kept; once this release reads it, a retry makes its changes, each with the fate of its own."""

    def decode_message(text):
        raise DecodeError("The message has no list of changes.", text)

    message = body(change(1), change(2), {**change(3), "cqrs_id": "nobody"})
    with monkeypatch.context() as older:
        older.setattr(intake, "decode_message", decode_message)
        older.setattr(dead_letters, "decode_message", decode_message)
        intake.take([message])
        assert DeadLetter.objects.get().cqrs_id == ""
        assert dead_letters.ask_again(DeadLetter.objects.all()) == 0
    assert dataclasses.decode_message(DeadLetter.objects.get().payload)
    assert dead_letters.ask_again(DeadLetter.objects.all()) == 3
    intake.retry_due()
    assert sorted(replica.Author.objects.values_list("pk", flat=True)) == [1, 2]
    states = dict(DeadLetter.objects.order_by("pk").values_list("cqrs_id", "status"))
    assert states == {"": "resolved", "author": "resolved", "nobody": "pending"}
