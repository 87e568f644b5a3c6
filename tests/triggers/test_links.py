"""Every way to make or break a link, captured by triggers, reaches the replicas as a change of its owner."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from django.db import transaction

from django_cqrs_celery import dispatcher, triggers, triggers_links
from django_cqrs_celery.models import OutboxMessage
from tests import routing
from tests.conftest import use_pair
from tests.invariants.racing import run_together
from tests.master_app import models as master
from tests.replica_app import models as replica
from tests.triggers.stock import connection, run

LINKS = "master_app_depot_shelves"
PLACES = "master_app_placing"
Depot, Placing = master.Depot, master.Placing
Link = Depot.shelves.through


def links_of(side):
    return {
        (depot.pk, name): sorted(getattr(depot, name).values_list("pk", flat=True))
        for depot in side.Depot.objects.all()
        for name in ("shelves", "stocks")
    }


def revisions(side=master):
    return dict(side.Depot.objects.values_list("pk", "cqrs_revision"))


def heard(net):
    """The depots that the replica was told of, with the kinds of changes; both sides are equal then."""
    net.pump()
    changes = [c for m in net.messages if m.cqrs_id == "depot" for c in json.loads(m.body)[1]["changes"]]
    net.deliver()
    net.messages.clear()
    assert links_of(replica) == links_of(master)
    assert revisions(replica) == revisions()
    return {(change["instance_pk"], change["signal_type"]) for change in changes}


def arrange(net):
    """Bring the links to where each write begins: shelves 1 and 2 and stock 1 in depot 1, shelf 1 in depot 2."""
    for number in (1, 2, 3):
        master.Shelf.objects.get_or_create(pk=number, name="s")
    run(f"DELETE FROM {LINKS}")
    run(f"DELETE FROM {PLACES}")
    run(f"INSERT INTO {LINKS} (id, depot_id, shelf_id) VALUES (901, 1, 1), (902, 1, 2), (903, 2, 1)")
    run(f"INSERT INTO {PLACES} (id, depot_id, stock_id) VALUES (901, 1, 1)")
    return heard(net)


@pytest.fixture
def depots(engine, net):
    """Three depots that the replica has, with their links."""
    for number in (1, 2, 3):
        master.Stock.objects.create(pk=number, name="s")
        Depot.objects.create(pk=number, name="d")
    assert arrange(net) == {(1, "SAVE"), (2, "SAVE"), (3, "SAVE")}
    return engine


def insert_again():
    values = "(id, depot_id, shelf_id) VALUES (999, 1, 1)"
    if connection().vendor == "mysql":
        run(f"INSERT IGNORE INTO {LINKS} {values}")
    else:
        run(f"INSERT INTO {LINKS} {values} ON CONFLICT DO NOTHING")


def two_savepoints():
    using = connection().alias
    with transaction.atomic(using=using):
        try:
            with transaction.atomic(using=using):
                run(f"DELETE FROM {LINKS} WHERE depot_id = 2")
                raise ValueError
        except ValueError:
            pass
        with transaction.atomic(using=using):
            run(f"DELETE FROM {LINKS} WHERE id = 901")


WRITES = {
    "raw INSERT": (lambda: run(f"INSERT INTO {LINKS} (id, depot_id, shelf_id) VALUES (909, 3, 1)"), {3}),
    "raw INSERT of many": (
        lambda: run(f"INSERT INTO {LINKS} (id, depot_id, shelf_id) VALUES (909, 3, 1), (910, 3, 2), (911, 2, 3)"),
        {2, 3},
    ),
    "raw INSERT of what is there": (insert_again, set()),
    "raw INSERT that reads the owners": (
        lambda: run(f"INSERT INTO {LINKS} (id, depot_id, shelf_id) SELECT 950 + id, id, 3 FROM master_app_depot"),
        {1, 2, 3},
    ),
    "raw UPDATE of the target": (lambda: run(f"UPDATE {LINKS} SET shelf_id = 3 WHERE id = 901"), {1}),
    "raw UPDATE of the owner": (lambda: run(f"UPDATE {LINKS} SET depot_id = 3 WHERE id = 901"), {1, 3}),
    "raw UPDATE that changes nothing": (lambda: run(f"UPDATE {LINKS} SET depot_id = depot_id"), set()),
    "raw UPDATE of what does not travel": (lambda: run(f"UPDATE {PLACES} SET place = place + 1"), set()),
    "raw DELETE": (lambda: run(f"DELETE FROM {LINKS} WHERE shelf_id = 1"), {1, 2}),
    "raw DELETE that reads the owners": (
        lambda: run(f"DELETE FROM {LINKS} WHERE depot_id IN (SELECT id FROM master_app_depot)"), {1, 2},
    ),
    "savepoints": (two_savepoints, {1}),
    "bulk_create() of links": (lambda: Link.objects.bulk_create([Link(depot_id=3, shelf_id=1)]), {3}),
    "QuerySet.delete() by the owner's column": (lambda: Link.objects.filter(depot__name="d").delete(), {1, 2}),
    "QuerySet.update()": (lambda: Placing.objects.update(stock_id=3), {1}),
    "add() of the other side": (lambda: master.Shelf.objects.get(pk=2).depot_set.add(2, 3), {2, 3}),
    "clear()": (lambda: Depot.objects.get(pk=1).shelves.clear(), {1}),
    "save() of a link": (lambda: Placing.objects.create(depot_id=2, stock_id=2), {2}),
    "delete() of what is linked to": (lambda: master.Shelf.objects.get(pk=1).delete(), {1, 2}),
}  # fmt: skip


def test_every_way_to_write_links(depots, net):
    for name, (write, expected) in WRITES.items():
        arrange(net)
        before = revisions()
        write()
        assert heard(net) == {(pk, "SAVE") for pk in expected}, name
        raised = {pk: revision - before[pk] for pk, revision in revisions().items() if revision != before[pk]}
        assert set(raised) == expected, name
        if depots == "postgresql":
            assert set(raised.values()) <= {1}, name


def test_a_transaction_raises_once_where_the_database_can_tell(depots, net):
    before = revisions()
    with transaction.atomic(using=connection().alias):
        run("UPDATE master_app_depot SET name = 'e' WHERE id = 1")
        run(f"DELETE FROM {LINKS} WHERE depot_id = 1")
        Depot.objects.get(pk=1).shelves.add(3)
        run(f"INSERT INTO {PLACES} (id, depot_id, stock_id) VALUES (909, 1, 2)")
    raised = revisions()[1] - before[1]
    assert raised == 1 if depots == "postgresql" else raised > 1
    assert heard(net) == {(1, "SAVE")}


def test_a_save_after_links_raises_no_more(depots, net):
    """Django knows what it has done to a row's links in the transaction, and tells the triggers."""
    before = revisions()
    with transaction.atomic(using=connection().alias):
        depot = Depot.objects.get(pk=3)
        depot.shelves.add(1)
        depot.name = "x"
        depot.save()
    assert revisions()[3] == before[3] + 1 == depot.cqrs_revision
    assert heard(net) == {(3, "SAVE")}


def test_owner_that_goes_takes_its_links_without_a_word(depots, net):
    Depot.objects.get(pk=1).delete()
    assert heard(net) == {(1, "DELETE")}
    Depot.objects.create(pk=1).shelves.add(1)
    assert heard(net) == {(1, "SAVE")}


def test_revision_that_is_raised_at_publishing_is_raised_each_time(engine, net, monkeypatch):
    """As on MariaDB after a statement that reads the owners; a process may be killed before it has published."""
    depot = Depot.objects.create(name="d")
    heard(net)
    with monkeypatch.context() as context:
        context.setattr(net, "publish", _raise)
        OutboxMessage.objects.create(signal_type="SAVE", cqrs_id="depot", instance_pk=str(depot.pk), revision=-1)
        with pytest.raises(RuntimeError):
            dispatcher.drain(routing.current["master"], net)
    OutboxMessage.objects.update(leased_until=None)
    assert revisions()[depot.pk] > 0
    assert heard(net) == {(depot.pk, "SAVE")}


def _raise(*args, **kwargs):
    raise RuntimeError


@pytest.mark.parametrize("engine_name", ["postgresql", "mariadb"])
def test_writers_of_links_of_one_owner_do_not_wait_in_a_circle(transactional_db, engine_name):
    """Plain INSERTs: foreign keys have locked the owner for reading when the triggers write to it."""
    use_pair(engine_name, engine_name)
    depot = Depot.objects.create(name="d")
    shelves = master.Shelf.objects.bulk_create([master.Shelf(name="s") for _ in range(30)])

    def writer(part):
        for shelf in part:
            run(f"INSERT INTO {LINKS} (depot_id, shelf_id) VALUES ({depot.pk}, {shelf.pk})")

    run_together(*[lambda n=n: writer(shelves[n::3]) for n in range(3)])
    assert revisions()[depot.pk] == len(shelves) == depot.shelves.count()


def test_owners_are_told_apart_by_their_table(depots):
    """Each table of links has triggers of its own, which ``status`` looks at together with the model's."""
    (constraint,) = triggers.declared_by(Depot)
    assert constraint.state(Depot, connection()) == "installed"
    plans = list(constraint.link_plans(Depot, connection()))
    assert Counter(plan.table for plan in plans) == {LINKS: 1, PLACES: 1}
    for plan in plans:
        run(triggers_links.uninstall(connection().vendor, plan.name, plan.quote)[-1])
        assert constraint.state(Depot, connection()) == "outdated"
        for statement in triggers_links.install(connection().vendor, plan):
            run(statement)
        assert constraint.state(Depot, connection()) == "installed"


def test_links_whose_triggers_have_not_come_yet_are_captured_by_the_orm(depots, net):
    """New code runs before its migration does: the table of the model has its triggers, that of the links has none."""
    (constraint,) = triggers.declared_by(Depot)
    for name in constraint.links:
        for statement in constraint.uninstall_links_sql(name, connection()):
            run(statement)
    triggers.forget_what_is_there()
    try:
        Depot.objects.get(pk=3).shelves.add(1)
        assert heard(net) == {(3, "SAVE")}
    finally:
        for statement in constraint.install_sql(Depot, connection()):
            run(statement)
        triggers.forget_what_is_there()


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("depots")
class TestPostgreSQL:
    def test_copy_and_truncate(self, net):
        with connection().cursor() as cursor, cursor.copy(f"COPY {LINKS} (id, depot_id, shelf_id) FROM STDIN") as copy:
            for number in (1, 2, 3):
                copy.write_row((950 + number, 3, number))
        assert heard(net) == {(3, "SAVE")}
        run(f"TRUNCATE {LINKS}")
        assert heard(net) == {(1, "SAVE"), (2, "SAVE"), (3, "SAVE")}
        run(f"TRUNCATE master_app_depot, {LINKS}, {PLACES}")
        assert heard(net) == {(1, "DELETE"), (2, "DELETE"), (3, "DELETE")}
