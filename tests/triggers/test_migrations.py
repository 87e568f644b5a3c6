"""Triggers follow the models through ``makemigrations`` and ``migrate``, on every database."""

from __future__ import annotations

import pytest
from django.db import models

PLAIN = """
    class Product(models.Model):
        name = models.CharField(max_length=50)
        price = models.IntegerField(db_default=0)
"""
MIXIN = """
    class Product(MasterMixin):
        CQRS_ID = "product"
        name = models.CharField(max_length=50)
        price = models.IntegerField(db_default=0)
"""


def quote(project, name):
    return f"`{name}`" if project.engine == "mariadb" else f'"{name}"'


CAPTURED = ["SAVE", "SAVE", "DELETE"]


def hearing(project, table="catalog_product", cqrs_id="product", column="price"):
    """A step that tells what the outbox gets by an INSERT, two UPDATEs, one of which changes nothing, and a DELETE."""
    name, column = quote(project, table), quote(project, column)
    statements = [
        f"INSERT INTO {name} (id, name, {column}) VALUES (1, 'a', 0)",
        f"UPDATE {name} SET {column} = {column}",
        f"UPDATE {name} SET {column} = {column} + 1",
        f"DELETE FROM {name}",
    ]
    return "heard", [cqrs_id, "1", *statements], {}


def change(project, models, *hearings, renames=False):
    """Let the models be these, migrate, and hear; returns the operations of the migrations and what was heard."""
    project.write("catalog", models)
    operations, *heard = project.run_all(("change", [], {"renames": renames}), *hearings)
    return operations, heard


def test_a_life(project):
    """The mixin comes, fields come and go, names change, the mixin goes; and the whole way back."""
    table = quote(project, "catalog_product")
    row = ("sql", [f"INSERT INTO {table} (id, name, price) VALUES (7, 'old', 0)"], {})
    change(project, PLAIN, row)

    old = ("sql", [f"SELECT id, name, cqrs_revision FROM {table}"], {})
    gone = ("sql", [f"DELETE FROM {table}"], {})
    operations, heard = change(project, MIXIN, old, gone, hearing(project))
    assert "Create constraint" in operations
    assert heard == [[[7, "old", 0]], [], CAPTURED]

    more = MIXIN + "        weight = models.IntegerField(db_default=0)\n"
    _, heard = change(project, more, hearing(project), hearing(project, column="weight"))
    assert heard == [CAPTURED, CAPTURED]

    cost = hearing(project, column="cost")
    operations, heard = change(project, more.replace("price", "cost"), cost, renames=True)
    assert "Rename field price" in operations
    assert heard == [CAPTURED]

    mixin = MIXIN.replace("price", "cost")
    _, heard = change(project, mixin, cost)
    assert heard == [CAPTURED]

    moved = mixin + "        class Meta:\n            db_table = 'Odd Table'\n"
    odd = hearing(project, "Odd Table", column="cost")
    _, heard = change(project, moved, odd)
    assert heard == [CAPTURED]

    moved = moved.replace("Product", "Article")
    operations, heard = change(project, moved, odd, renames=True)
    assert "Rename model Product" in operations
    assert heard == [CAPTURED]

    moved = moved.replace('"product"', '"article"')
    article = hearing(project, "Odd Table", "article", column="cost")
    _, heard = change(project, moved, article)
    assert heard == [CAPTURED]

    bare = PLAIN.replace("price", "cost").replace("Product", "Article") + moved[moved.index("        class Meta") :]
    nothing = [("triggers", [], {}), ("leftovers", [], {})]
    operations, heard = change(project, bare, article, *nothing)
    assert "Remove constraint" in operations
    assert heard == [[], [], []]

    migrations = project.run("migrations", "catalog")
    states = [hearing(project), hearing(project, column="weight"), cost, cost, odd, odd, article]
    assert len(migrations) == len(states) + 2
    stops = list(zip(migrations[1:], states, strict=False))
    steps = [part for name, state in [*stops[::-1], *stops] for part in (_migrate(name), state)]
    assert project.run_all(*steps)[1::2] == [CAPTURED] * 2 * len(stops)
    heard = project.run_all(_migrate("zero"), *nothing, ("call", ["migrate"], {"verbosity": 0}), *nothing)
    assert heard[1:3] == heard[4:] == [[], []]


def _migrate(name):
    return "call", ["migrate", "catalog", name], {"verbosity": 0}


# --- other ways ----------------------------------------------------------------------------------------------------


def test_capture_is_switched(project):
    """By the setting and by the model: each gives the right migration, and quiet afterwards."""
    change(project, MIXIN)
    by_orm = MIXIN.replace('CQRS_ID = "product"', 'CQRS_ID = "product"\n        CQRS_CAPTURE = "orm"')
    operations, heard = change(project, by_orm, hearing(project), ("triggers", [], {}))
    assert "Remove constraint" in operations
    assert heard == [[], []]

    project.cqrs["master"]["capture"] = "orm"
    operations, _ = change(project, MIXIN)
    assert "No changes" in operations
    by_trigger = by_orm.replace('"orm"', '"trigger"')
    operations, heard = change(project, by_trigger, hearing(project))
    assert "Create constraint" in operations
    assert heard == [CAPTURED]


def test_auto(project):
    """Triggers on PostgreSQL alone, by the same migrations; where they are not there, the ORM captures."""
    project.cqrs["master"]["capture"] = "auto"
    by_orm = "saved", ["catalog.Product"], {"name": "a"}
    change(project, PLAIN)
    operations, heard = change(project, MIXIN, hearing(project), ("states", [], {}), by_orm)
    assert "Create constraint" in operations
    seen = [CAPTURED, {"product": "installed"}] if project.engine == "postgresql" else [[], {}]
    assert heard == [*seen, ["SAVE", "SAVE", "DELETE"]]
    assert "No changes" in change(project, MIXIN)[0]

    uninstall = "call", ["cqrs_triggers", "uninstall"], {}
    assert project.run_all(uninstall, by_orm)[1] == ["SAVE", "SAVE", "DELETE"]

    project.cqrs["master"]["capture"] = "trigger"
    operations, heard = change(project, MIXIN, hearing(project))
    assert "Create constraint" in operations and heard == [CAPTURED]
    project.cqrs["master"]["capture"] = "auto"
    _, heard = change(project, MIXIN, hearing(project))
    assert heard == [CAPTURED if project.engine == "postgresql" else []]
    assert "No changes" in change(project, MIXIN)[0]


def test_without_migrations(project):
    """Apps without migrations, and tests with ``--nomigrations``: tables are made with their triggers."""
    project.migrated = False
    project.write("catalog", MIXIN)
    project.write("zoo", ZOO)
    assert project.run_all(
        ("call", ["migrate"], {"run_syncdb": True, "verbosity": 0}),
        hearing(project), hearing(project, "zoo_animal", "animal", "legs"),
    )[1:] == [CAPTURED, CAPTURED]  # fmt: skip


def test_migrations_that_run_before_the_outbox_is_there(project):
    """``catalog`` sorts before this package: its tables, and what its migrations do to them, come first."""
    change(project, MIXIN)
    change(project, MIXIN.replace("price = models.IntegerField(", "price = models.BigIntegerField("))
    change(project, MIXIN + "        code = models.CharField(max_length=9, db_default='', db_index=True)\n")
    renamed = MIXIN + "        class Meta:\n            db_table = 'goods'\n"
    change(project, renamed)
    down = [("call", ["migrate", app, "zero"], {"verbosity": 0}) for app in ("catalog", "django_cqrs_celery")]
    up = ("call", ["migrate"], {"verbosity": 0})
    assert project.run_all(*down, up, hearing(project, "goods"))[-1] == CAPTURED


def test_the_outbox_goes_and_comes(project):
    """Without this package's tables there are no triggers that would look for them."""
    change(project, MIXIN)
    name = quote(project, "catalog_product")
    heard = project.run_all(
        ("call", ["migrate", "django_cqrs_celery", "zero"], {"verbosity": 0}),
        ("triggers", [], {}),
        ("sql", [f"INSERT INTO {name} (id, name) VALUES (1, 'a')", f"DELETE FROM {name}"], {}),
        ("call", ["migrate"], {"verbosity": 0}),
        hearing(project),
    )
    assert heard[1] == []
    assert heard[-1] == CAPTURED


def test_squashed(project):
    """Squashed migrations bring the triggers of the last one."""
    change(project, MIXIN)
    change(project, MIXIN + "        weight = models.IntegerField(db_default=0)\n")
    first, last = project.run("migrations", "catalog")
    project.run_all(
        ("call", ["migrate", "catalog", "zero"], {"verbosity": 0}),
        ("call", ["squashmigrations", "catalog", first, last], {"interactive": False, "verbosity": 0}),
    )
    project.run("drop_migrations", "catalog", [first, last])
    heard = project.run_all(
        ("call", ["migrate"], {"verbosity": 0}),
        ("call", ["makemigrations", "--check", "--dry-run"], {}),
        hearing(project, column="weight"),
    )
    assert heard[2] == CAPTURED


def test_fixtures_and_flush(project):
    """``loaddata`` is captured; ``flush`` leaves triggers where they are, and an empty outbox."""
    change(project, MIXIN)
    heard = project.run_all(
        ("loaded", [[{"model": "catalog.product", "pk": 1, "fields": {"name": "a", "cqrs_revision": 3}}]], {}),
        ("call", ["flush"], {"interactive": False, "verbosity": 0}),
        ("outbox", [], {}),
        hearing(project),
    )
    assert {tuple(row) for row in heard[0]} == {("SAVE", "product", "1")}
    assert heard[2:] == [[], CAPTURED]


def test_a_test_database_that_is_kept(project):
    """``--keepdb``: what the models have got since is in the database of the next run."""
    change(project, MIXIN)
    project.run("in_test_database", [hearing(project)])
    change(project, MIXIN + "        weight = models.IntegerField(db_default=0)\n")
    try:
        assert project.run("in_test_database", [hearing(project, column="weight")]) == [CAPTURED]
    finally:
        project.run("in_test_database", [], keep=False)


SHELF = """
    class Shelf(MasterMixin):
        CQRS_ID = "shelf"
        id = models.AutoField(primary_key=True)
        name = models.CharField(max_length=50, db_default="")
        best = models.ForeignKey("Product", models.CASCADE, null=True, related_name="+")

    class Product(MasterMixin):
        CQRS_ID = "product"
        name = models.CharField(max_length=50)
        price = models.IntegerField(db_default=0)
        shelf = models.ForeignKey(Shelf, models.CASCADE, null=True)
"""


def test_columns_are_altered(project):
    """Types, names and keys of columns that triggers name, and of foreign keys that change with a key."""
    shelf = hearing(project, "catalog_shelf", "shelf", "best_id")
    shelf[1].pop()  # the statements after the INSERT would need a product
    shelf[1][2:] = [s.replace("'a', 0", "'a', NULL") for s in shelf[1][2:3]]
    _, heard = change(project, SHELF, hearing(project), shelf)
    assert heard == [CAPTURED, ["SAVE"]]
    wider = SHELF.replace("name = models.CharField(max_length=50)", "name = models.CharField(max_length=99)")
    _, heard = change(project, wider, hearing(project), ("states", [], {}))
    assert heard == [CAPTURED, {"product": "installed", "shelf": "installed"}]
    named = wider.replace("IntegerField(db_default=0)", "BigIntegerField(db_default=0, db_column='the price')")
    _, heard = change(project, named, hearing(project, column="the price"), ("states", [], {}))
    assert heard == [CAPTURED, {"product": "installed", "shelf": "installed"}]
    keyed = named.replace("models.AutoField", "models.BigAutoField")
    _, heard = change(project, keyed, hearing(project, column="the price"), ("states", [], {}))
    assert heard == [CAPTURED, {"product": "installed", "shelf": "installed"}]


def test_data_migrations_are_captured(project):
    """What a migration writes after the triggers are there, also in the very same one."""
    change(project, MIXIN)
    name = quote(project, "catalog_product")
    project.run("call", "migrate", "catalog", "zero", verbosity=0)
    assert project.run_all(
        ("add_data_migration", ["catalog", "Product", {"name": "by a migration"}], {}),
        ("call", ["migrate"], {"verbosity": 0}),
        ("sql", [f"SELECT id FROM {name}"], {}),
        ("outbox", [], {}),
    )[2:] == [[[1]], [["SAVE", "product", "1"]]]  # fmt: skip


def test_sqlmigrate_shows_the_triggers(project):
    """``sqlmigrate`` prints all statements."""
    change(project, MIXIN)
    (first,) = project.run("migrations", "catalog")
    shown = project.run("call", "sqlmigrate", "catalog", first)
    assert shown.count("CREATE TRIGGER") == len(project.run("triggers"))


ZOO = """
    class Animal(MasterMixin):
        CQRS_ID = "animal"
        name = models.CharField(max_length=50)
        legs = models.IntegerField(db_default=4)
"""


CASCADE = """
    class Shelf(models.Model):
        name = models.CharField(max_length=50)

    class Product(MasterMixin):
        CQRS_ID = "product"
        name = models.CharField(max_length=50)
        price = models.IntegerField(db_default=0)
        shelf = models.ForeignKey(Shelf, models.DB_CASCADE, null=True)
"""


@pytest.mark.skipif(not hasattr(models, "DB_CASCADE"), reason="Django has DB_CASCADE from 6.1 on")
def test_a_cascade_of_the_database(project):
    """Django leaves the delete to the database, and sends no signal for the rows that go along."""
    table, shelf = quote(project, "catalog_product"), quote(project, "catalog_shelf")
    change(project, CASCADE)
    rows = [
        f"INSERT INTO {shelf} (id, name) VALUES (1, 's')",
        f"INSERT INTO {table} (id, name, price, shelf_id) VALUES (1, 'a', 0, 1)",
    ]
    assert project.run("heard", "product", "1", *rows) == ["SAVE"]
    heard = project.run("heard", "product", "1", f"DELETE FROM {shelf}")
    # InnoDB fires no triggers for what its foreign keys do.
    assert heard == ([] if project.engine == "mariadb" else ["DELETE"])
