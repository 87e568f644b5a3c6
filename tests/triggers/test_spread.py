"""Every way to write a row that is spread over several tables, captured by triggers on each of them."""

from __future__ import annotations

import threading

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.db.models import F

from django_cqrs_celery import triggers
from tests.master_app.models import Asset, Bistro, Cafe, Hall, Kiosk, Machine, Place, PlaceProxy, Ticket
from tests.triggers.spread import arrange, changes, connection, heard, insert, rows, run
from tests.triggers.stock import NOW

BISTRO = {("place", 3), ("cafe", 3), ("bistro", 3)}
CAFE = {("place", 2), ("cafe", 2)}
MACHINE = {("machine", 1)}
HALL = {("hall", 1)}


@pytest.fixture
def spread(engine, net):
    arrange(net)
    return engine


def saved(*keys):
    return {(*key, "SAVE") for key in keys}


def gone(*keys):
    return {(*key, "DELETE") for key in keys}


def save(model, pk, **values):
    row = model.objects.get(pk=pk)
    for name, value in values.items():
        setattr(row, name, value)
    row.save()
    return row


def convert():
    """A place becomes a café, by Django."""
    place = Place.objects.get(pk=1)
    cafe = Cafe(place_ptr=place, seats=1)
    cafe.__dict__.update({key: value for key, value in place.__dict__.items() if key != "_state"})
    cafe.save()


def kiosk():
    """A place becomes one that no replica knows of."""
    with transaction.atomic(using=connection().alias):
        Kiosk(place_ptr_id=1).save_base(raw=True, force_insert=True)
    return Kiosk.objects.get(pk=1)


def two_savepoints():
    using = connection().alias
    with transaction.atomic(using=using):
        try:
            with transaction.atomic(using=using):
                run("UPDATE master_app_cafe SET seats = 9 WHERE place_ptr_id = 3")
                raise ValueError
        except ValueError:
            pass
        run("UPDATE master_app_cafe SET seats = 9 WHERE place_ptr_id = 2")


WRITES = {
    # by plain SQL
    "UPDATE of the plain parent": (lambda: run("UPDATE master_app_asset SET label = 'x'"), saved(*MACHINE)),
    "UPDATE of the model's own": (lambda: run("UPDATE master_app_machine SET power = 5"), saved(*MACHINE)),
    "UPDATE of what does not travel": (lambda: run("UPDATE master_app_asset SET note = 'x'"), set()),
    "UPDATE that changes nothing": (
        lambda: [run(f"UPDATE master_app_{name} SET {c} = {c}") for name, c in (
            ("asset", "label"), ("machine", "power"), ("place", "name"), ("place", "city"), ("cafe", "seats"),
            ("bistro", "chef"), ("venue", "name"), ("hall", "rows"),
        ) if name != "hall" or connection().vendor != "mysql"],
        set(),
    ),
    "UPDATE of the holder": (
        lambda: run("UPDATE master_app_place SET name = 'x' WHERE id > 1"), saved(*CAFE, *BISTRO),
    ),
    "UPDATE of what the holder's model does not replicate": (
        lambda: run("UPDATE master_app_place SET city = 'x'"), saved(*CAFE, *BISTRO),
    ),
    "UPDATE of the child": (lambda: run("UPDATE master_app_cafe SET seats = 5"), saved(*CAFE, *BISTRO)),
    "UPDATE of the grandchild": (lambda: run("UPDATE master_app_bistro SET chef = 'x'"), saved(*BISTRO)),
    "UPDATE of a holder that is not replicated": (
        lambda: run("UPDATE master_app_venue SET name = 'x'"), saved(*HALL),
    ),
    "UPDATE of its child": (
        lambda: run(f"UPDATE {connection().ops.quote_name('master_app_hall')} SET"
                    f" {connection().ops.quote_name('rows')} = 5"),
        saved(*HALL),
    ),
    "UPDATE that reads the other table": (
        lambda: run("UPDATE master_app_cafe SET seats = 7 WHERE place_ptr_id IN (SELECT id FROM master_app_place)"),
        saved(*CAFE, *BISTRO),
    ),
    "UPDATE of the parent that reads the child": (
        lambda: run(
            "UPDATE master_app_asset SET label = 'y' WHERE id IN (SELECT asset_ptr_id FROM master_app_machine)"
        ),
        saved(*MACHINE),
    ),
    "INSERT of both": (lambda: insert(9, "asset", "machine"), saved(("machine", 9))),
    "INSERT of all": (lambda: insert(9, "place", "cafe", "bistro"), saved(("place", 9), ("cafe", 9), ("bistro", 9))),
    "INSERT of a child to a parent": (lambda: insert(1, "cafe"), saved(("cafe", 1))),
    "INSERT of a machine to an asset": (lambda: insert(2, "machine"), saved(("machine", 2))),
    "DELETE of the child": (lambda: run("DELETE FROM master_app_machine"), gone(*MACHINE)),
    "DELETE of the grandchild": (lambda: run("DELETE FROM master_app_bistro"), gone(("bistro", 3))),
    "DELETE of a hall": (lambda: run("DELETE FROM master_app_hall"), gone(*HALL)),
    "savepoints": (two_savepoints, saved(*CAFE)),
    # by Django
    "create()": (lambda: Cafe.objects.create(pk=9, name="n"), saved(("place", 9), ("cafe", 9))),
    "create() of the third": (
        lambda: Bistro.objects.create(pk=9, name="n"), saved(("place", 9), ("cafe", 9), ("bistro", 9)),
    ),
    "create() of a machine": (lambda: Machine.objects.create(pk=9, label="n"), saved(("machine", 9))),
    "create() of a hall": (lambda: Hall.objects.create(pk=9, name="n"), saved(("hall", 9))),
    "a place becomes a café": (convert, saved(("place", 1), ("cafe", 1))),
    "save() of both": (lambda: save(Machine, 1, label="x", power=3), saved(*MACHINE)),
    "save() of the plain parent": (lambda: save(Asset, 1, label="x"), saved(*MACHINE)),
    "save() of the third": (lambda: save(Bistro, 3, name="x", seats=3, chef="x"), saved(*BISTRO)),
    "save() of the holder alone": (lambda: save(Place, 3, name="x"), saved(*BISTRO)),
    "save() of a hall": (lambda: save(Hall, 1, name="x", rows=2), saved(*HALL)),
    "update() of own and inherited columns": (
        lambda: Cafe.objects.filter(pk__gt=0).update(name="x", seats=4), saved(*CAFE, *BISTRO),
    ),
    "update() of a machine": (lambda: Machine.objects.update(label="x", power=F("power") + 1), saved(*MACHINE)),
    "update() of the plain parent": (lambda: Asset.objects.update(label="x"), saved(*MACHINE)),
    "update() of the holder": (lambda: Place.objects.filter(pk=3).update(name="x"), saved(*BISTRO)),
    "bulk_update()": (
        lambda: Cafe.objects.bulk_update([Cafe(pk=2, name="x", seats=5)], ["name", "seats"]), saved(*CAFE),
    ),
    "delete()": (lambda: Bistro.objects.get().delete(), gone(*BISTRO)),
    "delete() that keeps the parents": (lambda: Bistro.objects.get().delete(keep_parents=True), gone(("bistro", 3))),
    "delete() of the parent": (lambda: Place.objects.get(pk=3).delete(), gone(*BISTRO)),
    "delete() of the plain parent": (lambda: Asset.objects.all().delete(), gone(*MACHINE)),
    "delete() of a child that is no master": (lambda: kiosk().delete(), gone(("place", 1))),
    "the same, its parent stays": (lambda: kiosk().delete(keep_parents=True), saved(("place", 1))),
    "QuerySet.delete()": (lambda: Hall.objects.all().delete(), gone(*HALL)),
    "a link": (lambda: Cafe.objects.get(pk=2).shelves.add(1), saved(*CAFE)),
    "a raw link": (
        lambda: run("INSERT INTO master_app_cafe_shelves (id, cafe_id, shelf_id) VALUES (901, 3, 1)"), saved(*BISTRO),
    ),
    "a raw link of a machine": (
        lambda: run("INSERT INTO master_app_machine_shelves (id, machine_id, shelf_id) VALUES (901, 1, 1)"),
        saved(*MACHINE),
    ),
}  # fmt: skip


def test_every_way_to_write_rows(spread, net):
    for name, (write, expected) in WRITES.items():
        arrange(net)
        before = rows_of_master()
        write()
        found = heard(net)
        assert found == expected, name
        after = rows_of_master()
        touched = {key for key in before if key in after and before[key] != after[key]}
        raised = {key for key in touched if after[key][0] > before[key][0]}
        assert touched == raised, name


def rows_of_master():
    from tests.master_app import models as master

    return rows(master)


def test_all_writes_of_a_transaction_are_one_message(spread, net):
    with transaction.atomic(using=connection().alias):
        run("UPDATE master_app_place SET name = 'x' WHERE id = 2")
        run("UPDATE master_app_cafe SET seats = 5 WHERE place_ptr_id = 2")
        run("UPDATE master_app_place SET city = 'y' WHERE id = 2")
        run("UPDATE master_app_asset SET label = 'x'")
        run("UPDATE master_app_machine SET power = 5")
    found = [c for c in changes(net) if c["cqrs_id"] in ("cafe", "machine")]
    if spread == "mariadb":
        # What the place does not replicate is raised when it is published, and the same is sent once more.
        assert found.pop()["instance_data"] == found[0]["instance_data"]
    cafe, machine = sorted(found, key=lambda change: change["cqrs_id"])
    assert cafe["instance_data"]["seats"] == 5 and cafe["instance_data"]["city"] == "y"
    assert cafe["previous_data"] == {"seats": 0, "city": ""}
    assert machine["previous_data"] == {"label": "", "power": 0}
    if spread == "postgresql":
        assert cafe["instance_data"]["cqrs_revision"] == machine["instance_data"]["cqrs_revision"] == 1


@pytest.mark.parametrize(
    ("model", "values"), [(Machine, {"label": "x", "power": 3}), (Cafe, {"name": "x", "seats": 3})]
)
def test_an_instance_knows_its_revision(spread, net, model, values):
    row = save(model, 1 if model is Machine else 2, **values)
    assert row.cqrs_revision == model.objects.get(pk=row.pk).cqrs_revision
    assert row.cqrs_updated == model.objects.get(pk=row.pk).cqrs_updated
    for number in range(3):
        with transaction.atomic(using=connection().alias):
            for name in values:
                setattr(row, name, number)
                row.save()
            row.save(update_fields=[name])
    assert row.cqrs_revision == model.objects.get(pk=row.pk).cqrs_revision
    heard(net)


def test_a_proxy_is_no_table_of_its_own(spread, net):
    """Of a model in one table its instance knows the revision without a look, whatever its class."""
    place = PlaceProxy.objects.get(pk=1)
    for _ in range(2):
        with transaction.atomic(using=connection().alias):
            for number in range(2):
                place.name = number
                place.save()
        assert "cqrs_revision" in place.__dict__
    assert place.cqrs_revision == Place.objects.get(pk=1).cqrs_revision == 2
    assert heard(net) == saved(("place", 1))


def test_a_row_that_comes_back_is_newer_than_its_delete(spread, net):
    """Within one transaction and in two; with its parents and without."""
    for number in range(3):
        with transaction.atomic(using=connection().alias):
            run("DELETE FROM master_app_bistro WHERE cafe_ptr_id = 3")
            run(f"UPDATE master_app_place SET name = 'r{number}' WHERE id = 3")
            insert(3, "bistro")
        assert ("bistro", 3, "SAVE") in heard(net)
        run("DELETE FROM master_app_bistro WHERE cafe_ptr_id = 3")
        assert heard(net) == gone(("bistro", 3))
        insert(3, "bistro")
        assert ("bistro", 3, "SAVE") in heard(net)
        run("DELETE FROM master_app_machine")
        run("DELETE FROM master_app_asset WHERE id = 1")
        insert(1, "asset", "machine")
        assert heard(net) == {("machine", 1, "DELETE"), ("machine", 1, "SAVE")}
        Bistro.objects.all().delete()
        Bistro.objects.create(pk=3, name="n")
        assert ("bistro", 3, "SAVE") in heard(net)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("parents_first", [False, True])
def test_primary_key_that_changes(spread, net, parents_first):
    """The parts move one after the other; their foreign keys are looked at in the end."""
    parts = [("place", "id"), ("cafe", "place_ptr_id")]
    with transaction.atomic(using=connection().alias):
        for name, key in parts if parents_first else parts[::-1]:
            run(f"UPDATE master_app_{name} SET {key} = 12 WHERE {key} = 2")
    assert heard(net) == {*gone(*CAFE), *saved(("place", 12), ("cafe", 12))}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
def test_parts_in_another_order(spread, net):
    """Foreign keys are looked at in the end: parents go first, or come last."""
    with transaction.atomic(using=connection().alias):
        run("DELETE FROM master_app_place WHERE id = 3")
        run("DELETE FROM master_app_cafe WHERE place_ptr_id = 3")
        run("DELETE FROM master_app_bistro WHERE cafe_ptr_id = 3")
    assert heard(net) == gone(*BISTRO)
    with transaction.atomic(using=connection().alias):
        insert(3, "bistro", "cafe", "place")
    assert heard(net) == saved(*BISTRO)


def test_upserts(spread, net):
    run(_upsert("master_app_place", "(id, name, cqrs_updated) VALUES (2, 'x', " + NOW + ")", "id", "name = 'x'"))
    assert heard(net) == saved(*CAFE)
    run(_upsert("master_app_cafe", "(place_ptr_id, seats) VALUES (2, 8)", "place_ptr_id", "seats = 8"))
    assert heard(net) == saved(*CAFE)


def _upsert(table, values, key, update):
    if connection().vendor == "mysql":
        return f"INSERT INTO {table} {values} ON DUPLICATE KEY UPDATE {update}"
    return f"INSERT INTO {table} {values} ON CONFLICT ({key}) DO UPDATE SET {update}"


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("parent", "child", "pk", "column"), [("asset", "machine", 2, "label"), ("place", "cafe", 1, "name")]
)
def test_a_part_that_comes_while_another_is_written(spread, net, parent, child, pk, column):
    """Whichever is first, the last to commit promises what both have made of the row."""
    written, published = threading.Event(), threading.Event()

    def write():
        try:
            with transaction.atomic(using=connection().alias):
                run(f"UPDATE master_app_{parent} SET {column} = 'late' WHERE id = {pk}")
                written.set()
                published.wait(30)
        finally:
            connection().close()

    other = threading.Thread(target=write)
    with transaction.atomic(using=connection().alias):
        insert(pk, child)
        other.start()
        written.wait(1)
    assert written.wait(30)
    assert (child, pk, "SAVE") in heard(net)
    published.set()
    other.join()
    assert (child, pk, "SAVE") in heard(net)


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize(
    ("model", "parent", "values"), [(Cafe, Place, {"seats": 5}), (Machine, Asset, {"label": "x", "power": 5})]
)
def test_an_update_locks_tables_in_the_order_of_a_save(spread, net, monkeypatch, captured, model, parent, values):
    """Else the two end in a deadlock."""
    if not captured:
        monkeypatch.setattr(triggers, "captures", lambda model, using: False)
    pk, errors = model.objects.first().pk, []

    def update():
        try:
            assert model.objects.filter(pk=pk).update(**values) == 1
        except Exception as error:
            errors.append(error)
        finally:
            connection().close()

    other = threading.Thread(target=update)
    with transaction.atomic(using=connection().alias):
        parent.objects.filter(pk=pk).update(**{"name" if parent is Place else "label": "s"})
        other.start()
        other.join(1)
        own = {"seats": 4} if model is Cafe else {"power": 4}
        model.objects.filter(pk=pk).update(**own)
    other.join(30)
    assert not errors
    assert (model.CQRS_ID, pk, "SAVE") in heard(net)


@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_one_update_of_two_tables(spread, net):
    """Its triggers may not write to either table: the outbox asks for the revision to be raised afterwards."""
    run("UPDATE master_app_asset a JOIN master_app_machine m ON m.asset_ptr_id = a.id SET a.label = 'x', m.power = 4")
    assert heard(net) == saved(*MACHINE)
    run("UPDATE master_app_place p JOIN master_app_cafe c ON c.place_ptr_id = p.id SET p.name = 'x', c.seats = 4")
    assert saved(*CAFE, *BISTRO) <= heard(net)
    run("UPDATE master_app_place p JOIN master_app_cafe c ON c.place_ptr_id = p.id SET c.seats = 5 WHERE p.id = 2")
    assert heard(net) == saved(*CAFE)
    run("DELETE b FROM master_app_bistro b JOIN master_app_place p ON b.cafe_ptr_id = p.id")
    assert heard(net) == gone(("bistro", 3))


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("spread")
class TestPostgreSQL:
    def test_copy_and_truncate(self, net):
        for table, columns in (("place", "id, name"), ("cafe", "place_ptr_id, seats")):
            copying = f"COPY master_app_{table} ({columns}) FROM STDIN"
            with connection().cursor() as cursor, cursor.copy(copying) as copy:
                for number in (21, 22):
                    copy.write_row((number, number))
        assert heard(net) == saved(*((name, number) for name in ("place", "cafe") for number in (21, 22)))
        run("TRUNCATE master_app_bistro")
        assert heard(net) == gone(("bistro", 3))
        run("TRUNCATE master_app_place CASCADE")
        places, cafes = (1, 2, 3, 21, 22), (2, 3, 21, 22)
        assert heard(net) == gone(*(("place", n) for n in places), *(("cafe", n) for n in cafes))
        run("TRUNCATE master_app_asset CASCADE")
        assert heard(net) == gone(*MACHINE)

    def test_other_isolation_levels(self, net):
        """A statement that cannot see whether there is a row promises it all the same."""
        with transaction.atomic(using=connection().alias):
            run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            run("UPDATE master_app_asset SET label = 'x'")
            run("UPDATE master_app_place SET name = 'x'")
        assert heard(net) == saved(("place", 1), *CAFE, *BISTRO, *MACHINE)


def test_status_looks_at_each_table(spread):
    for model, tables in ((Machine, {"asset", "machine"}), (Bistro, {"place", "cafe", "bistro"})):
        (constraint,) = triggers.declared_by(model)
        parts = constraint.own_parts(model, connection())
        assert {part.plan.table for part in parts} == {f"master_app_{name}" for name in tables}
        for part in parts:
            assert part.state(connection()) == "installed"
        run(constraint.uninstall_sql(model, connection())[-1])
        for statement in constraint.install_sql(model, connection()):
            run(statement)
        assert constraint.state(model, connection()) == "installed"


def test_asynchronous_code_may_look_at_the_revision_that_the_triggers_gave(spread, net):
    async def work():
        cafe = await Cafe.objects.aget(pk=2)
        before, cafe.seats = cafe.cqrs_revision, 8
        await cafe.asave()
        after = cafe.cqrs_revision, cafe.cqrs_updated
        ticket = await Ticket.objects.acreate(title="new")
        return before, after, ticket.cqrs_revision

    before, (revision, moment), first = async_to_sync(work)()
    written = Cafe.objects.get(pk=2)
    assert (written.cqrs_revision, written.cqrs_updated) == (revision, moment)
    assert (revision > before, first) == (True, 0)
    assert heard(net) == saved(*CAFE)
