"""A lone change of a row that is there takes one statement on PostgreSQL, and everything else the way of batches."""

from __future__ import annotations

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from django_cqrs_celery import applier, lone
from django_cqrs_celery.constants import DeadLetterStatus, Outcome, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.dead_letters import Keeper
from django_cqrs_celery.models import DeadLetter
from tests import conftest, routing
from tests.master_app import models as master
from tests.replica_app import models as replica

UPDATED = "2026-01-01T00:00:00+00:00"


@pytest.fixture(autouse=True)
def _postgresql(transactional_db):
    conftest.use_pair("postgresql", "postgresql")


def change(cqrs_id="author", revision=1, signal_type=SignalType.SAVE, **values):
    data = {"id": 1, "name": "Ada", "email": None, "born": None, "rating": 0} if cqrs_id == "author" else {"id": 1}
    data |= {"cqrs_revision": revision, "cqrs_updated": UPDATED, **values}
    return TransportPayload(signal_type=signal_type, cqrs_id=cqrs_id, instance_data=data, instance_pk=data["id"])


def apply(*changes):
    """Outcomes, and the statements that the replica's database was given."""
    with CaptureQueriesContext(connections[routing.current["replica"]]) as queries:
        outcomes = applier.apply(changes, Keeper())
    return outcomes, [query["sql"] for query in queries]


@pytest.fixture
def author():
    apply(change(revision=4))
    return replica.Author.objects.get()


def test_an_update_is_one_statement(author):
    outcomes, statements = apply(change(revision=5, name="Ada L.", rating=7, email="a@b.c", born="1815-12-10"))
    assert outcomes == [Outcome.UPDATED]
    assert len(statements) == 1
    author.refresh_from_db()
    assert (author.name, author.rating, author.email, author.cqrs_revision) == ("Ada L.", 7, "a@b.c", 5)
    assert str(author.born) == "1815-12-10"


def test_a_save_of_the_master_arrives_by_it(net):
    saved = master.Author.objects.create(name="a")
    net.run()
    saved.name = "b"
    saved.save()
    net.pump()
    with CaptureQueriesContext(connections[routing.current["replica"]]) as queries:
        net.deliver()
    assert replica.Author.objects.get().name == "b"
    assert len([query for query in queries if query["sql"].startswith(("UPDATE", "INSERT"))]) == 1
    assert not [query for query in queries if "FOR UPDATE" in query["sql"]]


@pytest.mark.parametrize(
    ("revision", "outcome"), [(3, Outcome.STALE), (4, Outcome.DUPLICATE), (5, Outcome.UPDATED), (9, Outcome.UPDATED)]
)
def test_outcomes_are_those_of_a_batch(author, revision, outcome):
    assert apply(change(revision=revision, name="new"))[0] == [outcome]
    author.refresh_from_db()
    assert (author.name, author.cqrs_revision) == (
        ("new", revision) if outcome is Outcome.UPDATED else ("Ada", 4)
    )


def test_a_gap_is_still_told(author, caplog):
    with caplog.at_level("INFO", logger="django_cqrs_celery.applier"):
        apply(change(revision=7))
    assert "lost or filtered out 2 revisions" in caplog.text


def test_an_open_letter_is_closed_as_ever(author):
    letter = DeadLetter.objects.create(
        status=DeadLetterStatus.DEAD.value, cqrs_id="author", instance_pk="1", revision=4, payload="{}",
        signal_type="SAVE", error_class="X",
    )  # fmt: skip
    outcomes, statements = apply(change(revision=5))
    assert outcomes == [Outcome.UPDATED]
    assert len(statements) > 1
    letter.refresh_from_db()
    assert letter.status == DeadLetterStatus.SUPERSEDED.value


def test_what_the_database_refuses_is_set_aside_as_ever(author):
    apply(change(revision=0, id=2, email="taken@b.c"))
    outcomes, _ = apply(change(revision=5, email="taken@b.c"))
    assert outcomes == [Outcome.FAILED]
    assert "IntegrityError" in DeadLetter.objects.get().error_class
    DeadLetter.objects.all().delete()
    outcomes, _ = apply(change(revision=5, name="x" * 101))
    assert outcomes == [Outcome.FAILED]
    author.refresh_from_db()
    assert author.cqrs_revision == 4


def test_a_new_parent_is_looked_for(author):
    book = {"title": "Notes", "price": "1.00"}
    apply(change("book", 0, author=1, **book))
    outcomes, statements = apply(change("book", 1, author=1, **{**book, "title": "Notes II"}))
    assert (outcomes, len(statements)) == ([Outcome.UPDATED], 1)
    outcomes, statements = apply(change("book", 2, author=99, **book))
    assert outcomes == [Outcome.FAILED]
    assert DeadLetter.objects.get().status == DeadLetterStatus.WAITING.value
    found = replica.Book.objects.get()
    assert (found.author_id, found.title, found.cqrs_revision) == (1, "Notes II", 1)


def test_whatever_else_goes_the_way_of_batches(author, monkeypatch):
    using = routing.current["replica"]
    update = change(revision=5)
    assert not lone.update(replica.Author, change(revision=5, signal_type=SignalType.SYNC), using)
    assert not lone.update(replica.Author, change(revision=5, signal_type=SignalType.DELETE), using)
    assert not lone.update(replica.Author, change(revision=5, born="today"), using)
    assert not lone.update(replica.Author, change(revision=5, id=None), using)
    assert not lone.update(replica.Author, change(revision=5, id=2), using)
    with transaction.atomic(using=using):
        assert not lone.update(replica.Author, update, using)
    assert lone.update(replica.Author, update, using)
    assert not lone.update(replica.Author, update, using)


def test_hooks_are_called_as_ever():
    ticket = {"code": "12345678-1234-5678-1234-567812345678", "title": "a", "cqrs_updated": UPDATED}
    for revision in (0, 1):
        data = {**ticket, "cqrs_revision": revision}
        apply(
            TransportPayload(
                signal_type=SignalType.SAVE, cqrs_id="ticket", instance_data=data, instance_pk=ticket["code"]
            )
        )
    assert replica.Ticket.calls == ["create", "update"]


def test_for_which_models_it_is_possible():
    assert applier.may_be_alone("author")
    assert not applier.may_be_alone("ticket")  # has hooks
    assert not applier.may_be_alone("unknown")
    conftest.use_pair("sqlite", "sqlite")
    assert not applier.may_be_alone("author")


def test_a_copy_changes_a_row_or_nothing(author):
    assert applier.apply_alone(change(revision=5, name="ahead"))
    author.refresh_from_db()
    assert author.name == "ahead"
    for useless in (change(revision=5), change(revision=7), change(revision=0, id=2), change("unknown")):
        assert not applier.apply_alone(useless)
    assert replica.Author.objects.count() == 1
    assert not DeadLetter.objects.exists()


@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_other_engines_apply_a_batch_of_one(engine):
    conftest.use_pair(engine, engine)
    apply(change(revision=0))
    assert not lone.update(replica.Author, change(revision=1), routing.current["replica"])
    assert apply(change(revision=1, name="b"))[0] == [Outcome.UPDATED]
    assert replica.Author.objects.get().name == "b"
