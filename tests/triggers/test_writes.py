"""Every way to write a row, captured by triggers, reaches the replicas with the right revision and nothing else."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace

import pytest
from django.core.management import call_command
from django.db import transaction
from django.db.models import F

from django_cqrs_celery import triggers, triggers_parts
from django_cqrs_celery.models import OutboxMessage
from tests.master_app import models as master
from tests.triggers.stock import NOW, TABLE, connection, heard, on_conflict, run


def upsert(**options):
    if connection().features.supports_update_conflicts_with_target:
        options["unique_fields"] = ["id"]
    return {"update_conflicts": True, "update_fields": ["name", "amount"], **options}


def save_with_f():
    stock = master.Stock.objects.get(pk=1)
    stock.amount = F("amount") + 5
    stock.save()


def save_update_fields():
    stock = master.Stock.objects.get(pk=1)
    stock.name = "named"
    stock.save(update_fields=["name"])


def bulk_update():
    rows = list(master.Stock.objects.order_by("pk"))
    for row in rows:
        row.amount = 7
    master.Stock.objects.bulk_update(rows, ["amount"])


def two_savepoints():
    with transaction.atomic(using=connection().alias):
        try:
            with transaction.atomic(using=connection().alias):
                master.Stock.objects.filter(pk=1).update(amount=100)
                master.Stock.objects.filter(pk=2).update(amount=100)
                raise ValueError
        except ValueError:
            pass
        with transaction.atomic(using=connection().alias):
            master.Stock.objects.filter(pk=1).update(amount=200)


def load(*fixtures):
    """What ``loaddata`` does with rows of these values."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([{"model": "master_app.stock", **fixture} for fixture in fixtures], file)
        file.flush()
        call_command("loaddata", file.name, database=connection().alias, verbosity=0)


def same(pk, **values):
    """A row as ``stocks`` made it, but for these values."""
    return {"pk": pk, "fields": {"name": f"n{pk}", "amount": pk, **values}}


Stock = master.Stock
SAVE1 = ("SAVE", 1, 1)
WRITES = {
    "QuerySet.update()": (lambda: Stock.objects.filter(pk=1).update(amount=5), [SAVE1]),
    "update of F()": (
        lambda: Stock.objects.update(amount=F("amount") + 1),
        [SAVE1, ("SAVE", 2, 1), ("SAVE", 3, 1)],
    ),
    "update of what does not travel": (lambda: Stock.objects.update(note="x"), []),
    "update that changes nothing": (lambda: Stock.objects.filter(pk=1).update(amount=1), []),
    "save() of F()": (save_with_f, [SAVE1]),
    "save(update_fields)": (save_update_fields, [SAVE1]),
    "QuerySet.delete()": (lambda: Stock.objects.filter(pk=1).delete(), [("DELETE", 1, 1)]),
    "_raw_delete()": (
        lambda: Stock.objects.filter(pk=1)._raw_delete(connection().alias), [("DELETE", 1, 1)],
    ),
    "bulk_create()": (
        lambda: Stock.objects.bulk_create([Stock(pk=4, name="d"), Stock(pk=5, name="e")]),
        [("SAVE", 4, 0), ("SAVE", 5, 0)],
    ),
    "bulk_create(update_conflicts)": (
        lambda: Stock.objects.bulk_create([Stock(pk=1, name="x", amount=9), Stock(pk=4, name="d")], **upsert()),
        [SAVE1, ("SAVE", 4, 0)],
    ),
    "upsert that changes nothing": (
        lambda: Stock.objects.bulk_create([Stock(pk=1, name="n1", amount=1)], **upsert()), [],
    ),
    "bulk_create(ignore_conflicts)": (
        lambda: Stock.objects.bulk_create([Stock(pk=1, name="x"), Stock(pk=4, name="d")], ignore_conflicts=True),
        [("SAVE", 4, 0)],
    ),
    "bulk_update()": (bulk_update, [SAVE1, ("SAVE", 2, 1), ("SAVE", 3, 1)]),
    "raw UPDATE": (lambda: run(f"UPDATE {TABLE} SET name = 'x' WHERE id = 1"), [SAVE1]),
    "raw UPDATE of the revision alone": (
        lambda: run(f"UPDATE {TABLE} SET cqrs_revision = 8 WHERE id = 1"), [("SAVE", 1, 8)],
    ),
    "raw UPDATE of the primary key": (
        lambda: run(f"UPDATE {TABLE} SET id = 10 WHERE id = 1"), [("DELETE", 1, 1), ("SAVE", 10, 1)],
    ),
    "raw DELETE": (lambda: run(f"DELETE FROM {TABLE} WHERE id < 3"), [("DELETE", 1, 1), ("DELETE", 2, 1)]),
    "raw INSERT that updates": (
        lambda: run(
            f"INSERT INTO {TABLE} (id, name, cqrs_updated) VALUES (1, 'x', {NOW}), (4, 'd', {NOW})"
            f" {on_conflict('amount = 77')}"
        ),
        [SAVE1, ("SAVE", 4, 0)],
    ),
    "raw INSERT that updates nothing": (
        lambda: run(f"INSERT INTO {TABLE} (id, name, cqrs_updated) VALUES (1, 'x', {NOW}) {on_conflict('amount = 1')}"),
        [],
    ),
    "savepoints": (two_savepoints, [SAVE1]),
    "cqrs.bulk_create()": (lambda: Stock.cqrs.bulk_create([Stock(pk=4, name="d")]), [("SAVE", 4, 0)]),
    "cqrs.bulk_update()": (lambda: Stock.cqrs.bulk_update(Stock.objects.filter(pk=1), name="x"), [SAVE1]),
    "loaddata": (
        lambda: load(same(1), same(2, amount=9), same(3, cqrs_revision=7), same(4)),
        [("SAVE", 2, 1), ("SAVE", 3, 7), ("SAVE", 4, 0)],
    ),
    "loaddata of old rows": (
        lambda: load(*(same(pk, amount=9, cqrs_revision=0, cqrs_updated="2020-01-01T00:00:00Z") for pk in (1, 4))),
        [SAVE1, ("SAVE", 4, 0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_write(stocks, net, name):
    write, expected = WRITES[name]
    write()
    assert heard(net) == expected


def test_updates_of_plain_rows(stocks, net):
    """What Django updates by one statement is promised by it on PostgreSQL, where a trigger would take each row."""
    for name in ("a", "b"):
        master.Shelf.objects.create(name=name)
    heard(net)
    one, other = master.Shelf.objects.order_by("pk")
    assert master.Shelf.objects.update(name="x") == 2
    assert heard(net) == [("SAVE", one.pk, 1), ("SAVE", other.pk, 1)]
    with transaction.atomic(using=connection().alias):
        run(f"UPDATE master_app_shelf SET name = 'y' WHERE id = {one.pk}")
        master.Shelf.objects.filter(pk=one.pk).update(name="z")
    assert [change[:2] for change in heard(net)] == [("SAVE", one.pk)]
    revision = master.Shelf.objects.get(pk=one.pk).cqrs_revision
    assert revision >= 2
    master.Shelf.objects.filter(pk=one.pk).update(id=one.pk + 1000)
    assert heard(net) == [("DELETE", one.pk, revision + 1), ("SAVE", one.pk + 1000, revision + 1)]


def test_key_of_a_deleted_row(stocks, net):
    run(f"UPDATE {TABLE} SET amount = 4 WHERE id = 1")
    run(f"DELETE FROM {TABLE} WHERE id = 1")
    run(f"INSERT INTO {TABLE} (id, name, cqrs_updated) VALUES (1, 'again', {NOW})")
    assert heard(net) == [("DELETE", 1, 2), ("SAVE", 1, 3)]


def test_previous_values_are_those_of_the_database(stocks, net):
    run(f"UPDATE {TABLE} SET amount = amount + 4, name = 'x' WHERE id = 1")
    run(f"UPDATE {TABLE} SET name = 'y' WHERE id = 2")
    previous = dict(OutboxMessage.objects.values_list("instance_pk", "previous_data"))
    assert json.loads(previous["1"]) == {"amount": 1} and previous["2"] is None
    heard(net)


def test_revision_is_raised_once_in_a_transaction(stocks, net):
    with transaction.atomic(using=connection().alias):
        for amount in (5, 6, 7):
            stock = Stock.objects.get(pk=1)
            stock.amount = amount
            stock.save()
    assert heard(net) == [SAVE1]
    with transaction.atomic(using=connection().alias):
        run(f"UPDATE {TABLE} SET amount = 8 WHERE id = 1")
        with transaction.atomic(using=connection().alias):
            run(f"UPDATE {TABLE} SET amount = 9 WHERE id = 1")
    # Of plain SQL, PostgreSQL alone can tell that both were in one transaction.
    assert heard(net) == [("SAVE", 1, 2 if stocks == "postgresql" else 3)]


def test_row_written_before_without_a_word_is_raised(stocks, net):
    with transaction.atomic(using=connection().alias):
        run(f"UPDATE {TABLE} SET note = 'not replicated' WHERE id = 1")
        run(f"UPDATE {TABLE} SET amount = 9 WHERE id = 1")
    assert heard(net) == [SAVE1]


def test_trigger_of_the_project(stocks, net):
    body = f"UPDATE {TABLE} SET amount = amount + 1 WHERE id = 1"
    if stocks == "postgresql":
        run(
            f"CREATE FUNCTION tests_own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$;"
            "CREATE TRIGGER tests_own AFTER INSERT ON master_app_shelf FOR EACH ROW EXECUTE FUNCTION tests_own()"
        )
    else:
        run(f"CREATE TRIGGER tests_own AFTER INSERT ON master_app_shelf FOR EACH ROW BEGIN {body}; END")
    try:
        master.Shelf.objects.create(name="s")
        assert [change for change in heard(net) if change == SAVE1] == [SAVE1]
    finally:
        run("DROP FUNCTION tests_own CASCADE" if stocks == "postgresql" else "DROP TRIGGER tests_own")


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
def test_foreign_key_of_the_database(stocks, net, action):
    own = connection()
    text = "varchar(50)"
    run("CREATE TABLE tests_parent (id bigint PRIMARY KEY)")
    run(
        f"CREATE TABLE tests_child (id bigint PRIMARY KEY, name {text}, amount integer, note {text},"
        " shelf_id bigint, cqrs_revision integer DEFAULT 0, cqrs_updated timestamp NULL,"
        f" FOREIGN KEY (shelf_id) REFERENCES tests_parent (id) ON DELETE {action})"
    )
    plan = replace(triggers.declared_by(Stock)[0].plan(Stock, own), table="tests_child", name="cqrs_tests_child")
    engine = triggers_parts.ENGINES[own.vendor]
    try:
        for statement in engine.install(plan):
            run(statement)
        run("INSERT INTO tests_parent VALUES (1)")
        run("INSERT INTO tests_child (id, name, amount, shelf_id) VALUES (21, 'a', 1, 1)")
        OutboxMessage.objects.all().delete()
        run("DELETE FROM tests_parent")
        found = list(OutboxMessage.objects.values_list("signal_type", "instance_pk"))
        expected = [("DELETE" if action == "CASCADE" else "SAVE", "21")]
        # InnoDB fires no triggers for what its foreign keys do.
        assert found == ([] if stocks == "mariadb" else expected)
    finally:
        run("DROP TABLE tests_child")
        run("DROP TABLE tests_parent")
        for statement in triggers_parts.uninstall_own(own.vendor, plan.name, 0, plan.quote):
            run(statement)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("stocks")
class TestPostgreSQL:
    def test_copy(self, net):
        with (
            connection().cursor() as cursor,
            cursor.copy(f"COPY {TABLE} (id, name, cqrs_updated) FROM STDIN") as copy,
        ):
            for number in range(100, 200):
                copy.write_row((number, "copied", "2026-01-01T00:00:00+00:00"))
        assert heard(net) == [("SAVE", number, 0) for number in range(100, 200)]

    def test_truncate_is_a_delete_of_every_row(self, net):
        run(f"TRUNCATE {TABLE}")
        assert heard(net) == [("DELETE", 1, 1), ("DELETE", 2, 1), ("DELETE", 3, 1)]

    def test_plans_made_for_an_empty_outbox_do_no_harm(self, net):
        """A session keeps its plans: made when the outbox was empty, they would read the whole of a full one."""
        read = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'django_cqrs_celery_outboxmessage'"
        new = f"INSERT INTO {TABLE} (id, name, cqrs_updated) SELECT n, 'new', {NOW} FROM generate_series"
        heard(net)
        run("VACUUM ANALYZE django_cqrs_celery_outboxmessage")
        with transaction.atomic(using=connection().alias), connection().cursor() as cursor:
            cursor.execute(read)
            before = cursor.fetchone()
            for start in range(100, 1000, 100):
                run(f"{new}({start}, {start + 99}) n")
                run(f"UPDATE {TABLE} SET amount = 5 WHERE id >= {start}")
            run(f"UPDATE {TABLE} SET id = id + 1000 WHERE id >= 100")
            cursor.execute(read)
            assert cursor.fetchone() == before
            cursor.execute("SHOW enable_seqscan")
            assert cursor.fetchone() == ("on",)
        heard(net)
