"""The triggers of a model whose row is spread over several tables follow all of these through migrations."""

from __future__ import annotations

import os

import pytest

from tests.conftest import ENGINES
from tests.triggers.test_migrations import quote

PARENT = """
    class Thing(models.Model):
        name = models.CharField(max_length=50)
        size = models.IntegerField(db_default=0)
"""
#: In another app, which gets to know of its parent's columns by migrations of its own.
CHILD = """
    from catalog.models import Thing
    class Gadget(MasterMixin, Thing):
        CQRS_ID = "gadget"
        price = models.IntegerField(db_default=0)
"""
#: Two master models that share a revision.
MASTER = """
    class Thing(MasterMixin):
        CQRS_ID = "thing"
        name = models.CharField(max_length=50)
        size = models.IntegerField(db_default=0)
"""
HEIR = """
    from catalog.models import Thing
    class Gadget(Thing):
        CQRS_ID = "gadget"
        price = models.IntegerField(db_default=0)
"""
COLUMN = "        colour = models.IntegerField(db_default=0)\n"
#: What the outbox gets of a row that is made, of a change of each part, of none, and of a row that goes.
CAPTURED = [["SAVE"], ["SAVE"], ["SAVE"], [], ["DELETE"]]
SOME = ENGINES if os.environ.get("CQRS_TEST_LONG") else ENGINES[:2]


def writing(project, parent="catalog_thing", child="zoo_gadget", inherited="size", own="price"):
    """Steps that write a row and its parts."""
    parent, child, own, inherited = (quote(project, word) for word in (parent, child, own, inherited))
    steps = [
        [f"INSERT INTO {parent} (id, name) VALUES (1, 'a')", f"INSERT INTO {child} (thing_ptr_id) VALUES (1)"],
        [f"UPDATE {parent} SET {inherited} = {inherited} + 1"],
        [f"UPDATE {child} SET {own} = {own} + 1"],
        [f"UPDATE {parent} SET {inherited} = {inherited}", f"UPDATE {child} SET {own} = {own}"],
        [f"DELETE FROM {child}", f"DELETE FROM {parent}"],
    ]
    return [("told", ["gadget", "1", *statements], {}) for statements in steps]


def change(project, *steps, renames=False, **apps):
    """Let the models of the apps be these, migrate, and write; returns what the steps do."""
    for app, models in apps.items():
        project.write(app, models)
    return project.run_all(("change", [], {"renames": renames}), *steps)[1:]


@pytest.mark.parametrize("project", SOME, indirect=True)
def test_a_life(project):
    """Columns and tables of both parts come, move, change and go, as does the mixin; and the whole way back."""
    assert change(project, *writing(project), catalog=PARENT, zoo=CHILD) == CAPTURED

    parent, child = PARENT.replace("size", "weight"), CHILD.replace("price", "cost")
    names = {"inherited": "weight", "own": "cost"}
    assert change(project, *writing(project, **names), catalog=parent, zoo=child, renames=True) == CAPTURED

    parent += "        class Meta:\n            db_table = 'odd things'\n"
    names["parent"] = "odd things"
    assert change(project, *writing(project, **names), catalog=parent, renames=True) == CAPTURED
    child += "        class Meta:\n            db_table = 'odd gadgets'\n"
    names["child"] = "odd gadgets"
    assert change(project, *writing(project, **names), zoo=child, renames=True) == CAPTURED

    parent = parent.replace("weight = models.IntegerField", "weight = models.BigIntegerField")
    assert change(project, *writing(project, **names), catalog=parent) == CAPTURED

    bare = child.replace("MasterMixin, ", "").replace('        CQRS_ID = "gadget"\n', "")
    assert change(project, ("triggers", [], {}), ("leftovers", [], {}), zoo=bare) == [[], []]

    names_of = project.run("migrations", "zoo")
    back = project.run_all(("call", ["migrate", "zoo", names_of[-2]], {"verbosity": 0}), *writing(project, **names))
    assert back[1:] == CAPTURED
    # The tables are of old, the models are not: nobody is held up, and the old models get their triggers.
    back = project.run_all(
        ("call", ["migrate", "zoo", names_of[0]], {"verbosity": 0}),
        ("call", ["migrate", "catalog", "0001"], {"verbosity": 0}), *writing(project),
    )  # fmt: skip
    assert all(heard in ([], expected) for heard, expected in zip(back[2:], CAPTURED, strict=True))
    project.write("catalog", PARENT)
    project.write("zoo", CHILD)
    assert project.run_all(("call", ["cqrs_triggers", "install"], {}), *writing(project))[1:] == CAPTURED
    gone = project.run_all(
        ("call", ["migrate", "zoo", "zero"], {"verbosity": 0}), ("triggers", [], {}), ("leftovers", [], {})
    )
    assert gone[1:] == [[], []]


@pytest.mark.parametrize("project", SOME, indirect=True)
def test_a_column_that_moves(project):
    """From the child to its parent, both of which are masters; in between the table of the child has lost it."""
    assert change(project, *writing(project), catalog=MASTER, zoo=HEIR + COLUMN) == CAPTURED
    assert change(project, *writing(project, own="colour"), catalog=MASTER, zoo=HEIR + COLUMN) == CAPTURED
    assert change(project, *writing(project), zoo=HEIR) == CAPTURED
    assert change(project, *writing(project, inherited="colour"), catalog=MASTER + COLUMN) == CAPTURED
    assert change(project, *writing(project), catalog=MASTER) == CAPTURED
    assert change(project, ("states", [], {})) == [{"gadget": "installed", "thing": "installed"}]

    alone = HEIR.replace("        price", "        CQRS_PRODUCE = False\n        price")
    (state, *heard) = change(project, ("states", [], {}), *writing(project), zoo=alone)
    assert state == {"thing": "installed"} and heard == [[]] * 5


@pytest.mark.parametrize("project", SOME, indirect=True)
def test_a_column_of_the_parent_goes_before_its_child_knows(project):
    """The parent's app is migrated alone: its table can be written all the time."""
    change(project, catalog=PARENT + COLUMN, zoo=CHILD)
    project.write("catalog", PARENT)
    project.run_all(("call", ["makemigrations"], {"interactive": False, "verbosity": 0}))
    moved = project.run_all(("call", ["migrate", "catalog"], {"verbosity": 0}), *writing(project))
    assert moved[1:] == CAPTURED
    assert project.run_all(("call", ["migrate"], {"verbosity": 0}), *writing(project), ("states", [], {}))[1:] == [
        *CAPTURED, {"gadget": "installed"},
    ]  # fmt: skip


def test_without_migrations(project):
    """Tables are made one after the other."""
    project.migrated = False
    project.write("catalog", MASTER)
    project.write("zoo", HEIR)
    assert project.run_all(
        ("call", ["migrate"], {"run_syncdb": True, "verbosity": 0}), *writing(project),
        ("call", ["cqrs_triggers", "status"], {}),
    )[1:] == [*CAPTURED, "gadget in 'default': installed\nthing in 'default': installed\n"]  # fmt: skip


def test_the_command(project):
    """``uninstall`` takes the triggers of all tables, and ``install`` brings them back."""
    change(project, catalog=PARENT, zoo=CHILD)
    before = project.run("triggers")
    _, gone, _, back = project.run_all(
        ("call", ["cqrs_triggers", "uninstall"], {}), ("triggers", [], {}),
        ("call", ["cqrs_triggers", "install"], {}), ("triggers", [], {}),
    )  # fmt: skip
    assert gone == [] and back == before and len({name.rpartition("_")[0] for name in before}) > 1
    assert project.run_all(*writing(project)) == CAPTURED
