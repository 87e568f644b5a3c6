"""The triggers of many-to-many fields follow fields, tables and models of links through migrations."""

from __future__ import annotations

import os

import pytest

from tests.conftest import ENGINES
from tests.triggers.test_migrations import MIXIN, change, quote

TAG = """
    class Tag(models.Model):
        name = models.CharField(max_length=50)
"""
LINKED = TAG + MIXIN.replace('"product"', '"product"\n        CQRS_M2M_FIELDS = "__all__"')
TAGS = "        tags = models.ManyToManyField(Tag)\n"
PLACES = "        places = models.ManyToManyField(Tag, through='Place', related_name='+')\n"
PLACE = """
    class Place(models.Model):
        product = models.ForeignKey("Product", models.CASCADE)
        tag = models.ForeignKey(Tag, models.CASCADE)
"""
OWN_TABLE = "        class Meta:\n            db_table = "
MADE_AND_BROKEN = ["SAVE", "SAVE"]


def linking(project, table, owner="product_id", target="tag_id"):
    """A step that tells what the outbox gets by a link that is made, written without a change, and broken."""
    name, owner, target = (quote(project, word) for word in (table, owner, target))
    statements = [
        f"INSERT INTO {name} (id, {owner}, {target}) VALUES (7, 1, 1)",
        f"UPDATE {name} SET {owner} = {owner}",
        f"DELETE FROM {name}",
    ]
    return "heard", ["product", "1", *statements], {}


def rows(project, master="catalog_product"):
    """A step that makes the two rows that are linked."""
    tag, master = quote(project, "catalog_tag"), quote(project, master)
    return "sql", [
        f"INSERT INTO {tag} (id, name) VALUES (1, 'a')", f"INSERT INTO {master} (id, name) VALUES (1, 'a')"
    ], {}  # fmt: skip


@pytest.mark.parametrize("project", ENGINES if os.environ.get("CQRS_TEST_LONG") else ENGINES[:2], indirect=True)
def test_a_life(project):
    """Fields, their tables and models and columns of links come, change and go; and the whole way back."""
    models = LINKED + TAGS + PLACES + PLACE
    change(project, models, rows(project))
    hearings = [[linking(project, "catalog_product_tags"), linking(project, "catalog_place")]]
    assert project.run_all(*hearings[-1]) == [MADE_AND_BROKEN] * 2

    models = models.replace("Product", "Article")
    tags = linking(project, "catalog_article_tags", "article_id")
    hearings.append([tags, linking(project, "catalog_place")])
    operations, heard = change(project, models, *hearings[-1], renames=True)
    assert "Rename model Product" in operations
    assert heard == [MADE_AND_BROKEN] * 2

    models = models.replace("tags", "labels").replace("Place", "Spot")
    labels = linking(project, "catalog_article_labels", "article_id")
    hearings.append([labels, linking(project, "catalog_spot")])
    operations, heard = change(project, models, *hearings[-1], renames=True)
    assert "Rename field tags" in operations and "Rename model Place" in operations
    assert heard == [MADE_AND_BROKEN] * 2

    models = models.replace("ManyToManyField(Tag)", "ManyToManyField(Tag, db_table='odd links')")
    key = "(MasterMixin):\n        id = models.AutoField(primary_key=True)"
    models = models.replace("(MasterMixin):", key)
    models = models.replace('"Article", models.CASCADE', '"Article", models.CASCADE, db_column="an owner"')
    models += f"{OWN_TABLE}'odd spots'\n"
    hearings.append([linking(project, "odd links", "article_id"), linking(project, "odd spots", "an owner")])
    assert change(project, models, *hearings[-1])[1] == [MADE_AND_BROKEN] * 2

    bare = TAG + MIXIN.replace("Product", "Article").replace("(MasterMixin):", key)
    assert change(project, bare, ("states", [], {}))[1] == [{"product": "installed"}]

    back = list(zip(project.run("migrations", "catalog")[-2::-1], hearings[::-1], strict=True))
    answers = project.run_all(*(step for name, state in back for step in (_migrate(name), *state)))
    assert [answers[n] for n in range(len(answers)) if n % 3] == [MADE_AND_BROKEN] * 8
    gone = project.run_all(_migrate("zero"), ("triggers", [], {}), ("leftovers", [], {}))
    assert gone[1:] == [[], []]


def _migrate(name):
    return "call", ["migrate", "catalog", name], {"verbosity": 0}


def test_without_migrations(project):
    """Tables are made one after the other: that of a model of links after that of its owner."""
    project.migrated = False
    project.write("catalog", LINKED + TAGS + PLACES + PLACE)
    assert project.run_all(
        ("call", ["migrate"], {"run_syncdb": True, "verbosity": 0}), rows(project),
        linking(project, "catalog_place"), linking(project, "catalog_product_tags"),
        ("call", ["cqrs_triggers", "status"], {}),
    )[2:] == [MADE_AND_BROKEN, MADE_AND_BROKEN, "product in 'default': installed\n"]  # fmt: skip


@pytest.mark.parametrize("project", ["sqlite"], indirect=True)
def test_what_sqlmigrate_prints_can_be_run(project):
    """Tables of links have their new names by the time that triggers are put on them."""
    change(project, LINKED + TAGS)
    moved = LINKED.replace("(MasterMixin):", f"(MasterMixin):\n{OWN_TABLE}'goods'\n") + TAGS
    project.write("catalog", moved)
    project.run("call", "makemigrations", interactive=False)
    lines = project.run("call", "sqlmigrate", "catalog", project.run("migrations", "catalog")[-1]).splitlines()
    renamed = next(n for n, line in enumerate(lines) if "RENAME" in line and "goods_tags" in line)
    put_on = [n for n, line in enumerate(lines) if "CREATE TRIGGER" in line and "goods_tags" in line]
    assert put_on and renamed < min(put_on)
