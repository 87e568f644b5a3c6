"""Each outcome of the checks of capture by triggers."""

from __future__ import annotations

import pytest
from django.db import connections, models

from django_cqrs_celery import triggers
from django_cqrs_celery.mixins import MasterMixin
from tests import routing

CQRS = {"queue": "tests", "master": {"capture": "trigger"}}


def master(name="Thing", base=MasterMixin, **attributes):
    """Declare a master model for this test."""
    attributes.setdefault("name", models.CharField(max_length=50))
    meta = type("Meta", (), {"app_label": "master_app"})
    return type(name, (base,), {"CQRS_ID": name.lower(), "__module__": __name__, "Meta": meta, **attributes})


@pytest.fixture(autouse=True)
def by_triggers(settings, check):
    settings.CQRS = CQRS


# --- what is declared ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capture", [None, "orm", "trigger"])
def test_capture_that_is_right(check, settings, capture):
    assert triggers.declared_by(master(CQRS_CAPTURE=capture)) or capture == "orm"
    assert check(CQRS) == {}


def test_capture_that_is_unknown(check):
    master(CQRS_CAPTURE="triggers")
    assert set(check(CQRS)) == {"E065"}


@pytest.mark.parametrize("name", ["capture", "outbox"])
def test_a_setting_that_is_unknown(check, settings, name):
    """The models are loaded all the same, so that the check has the word."""
    cqrs = {"queue": "tests", "master": {"capture": "trigger", name: "triggers"}}
    settings.CQRS = cqrs
    master()
    found = check(cqrs)
    assert set(found) == {"E005"}
    assert found["E005"].msg.startswith(f"CQRS['master']['{name}'] is 'triggers', expected")


def _parent(name, base=models.Model, managed=True, **attributes):
    meta = type("Meta", (), {"app_label": "master_app", "managed": managed})
    return type(name, (base,), {"__module__": __name__, "Meta": meta, **attributes})


def _master_of(name, *bases):
    meta = type("Meta", (), {"app_label": "master_app"})
    return type(name, (MasterMixin, *bases), {"CQRS_ID": name.lower(), "__module__": __name__, "Meta": meta})


def test_a_row_in_several_tables(check):
    thing = _master_of("Thing", _parent("Base"))
    heir = master("Heir", thing)
    assert triggers.declared_by(thing) and triggers.declared_by(heir)
    assert check(CQRS) == {}


def test_tables_of_different_keys(check):
    bases = [_parent(name, **{key: models.AutoField(primary_key=True)}) for name, key in (("One", "a"), ("Two", "b"))]
    thing = _master_of("Thing", *bases)
    assert not triggers.declared_by(thing)
    found = check(CQRS)
    assert set(found) == {"W066"}
    assert "Thing are not captured by triggers: its row is spread over several tables, which" in found["W066"].msg


def test_keys_that_differ_further_up(check):
    """The parents have different keys, the model has that of the first."""
    root = _parent("Root")
    link = models.OneToOneField(root, models.CASCADE, parent_link=True)
    middle = _parent("Middle", root, code=models.CharField(max_length=5, primary_key=True), up=link)
    assert not triggers.declared_by(_master_of("Thing", middle))
    assert "which do not have the same primary key" in check(CQRS)["W066"].msg


@pytest.mark.parametrize(("capture", "expected"), [("auto", []), ("trigger", ["thing"])])
def test_a_table_that_django_does_not_manage(check, settings, capture, expected):
    """Whether it may get triggers is for its owner to say: with 'auto' it gets none."""
    settings.CQRS = {"queue": "tests", "master": {"capture": capture}}
    thing = _master_of("Thing", _parent("Base", managed=False))
    assert [constraint.cqrs_id for constraint in triggers.declared_by(thing)] == expected
    assert check(settings.CQRS) == {}


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"is_sync_instance": lambda self: True}, "its hooks have a say"), ({"CQRS_CAPTURE": "orm"}, "the ORM captures")],
)
def test_models_that_share_tables_are_captured_the_same_way(check, attributes, reason):
    """A child that comes later takes the triggers of its parent, and those of its other children, with it."""
    thing = master()
    first = _parent("First", thing, CQRS_ID="first")
    assert triggers.declared_by(thing) and triggers.declared_by(first)
    second = _parent("Second", thing, CQRS_ID="second", **attributes)
    assert not any(triggers.declared_by(model) for model in (thing, first, second))
    found = check(CQRS)
    assert set(found) == {"W066"}
    assert reason in found["W066"].msg


@pytest.mark.parametrize(("capture", "expected"), [(None, {"W066"}), ("trigger", {"W066"}), ("orm", set())])
def test_an_engine_that_has_no_triggers(check, monkeypatch, capture, expected):
    monkeypatch.setattr(triggers, "is_supported", lambda connection: False)
    master(CQRS_CAPTURE=capture)
    found = check(CQRS)
    assert set(found) == expected
    assert all("the engine of the database" in message.msg for message in found.values())


@pytest.mark.parametrize(("hooks", "expected"), [({}, set()), ({"is_sync_instance": lambda self: True}, {"W066"})])
def test_links_of_a_model_with_hooks(check, hooks, expected):
    model = master(links=models.ManyToManyField("master_app.Author"), CQRS_M2M_FIELDS=["links"], **hooks)
    (constraint,) = triggers.declared_by(model)
    assert constraint.links == (() if hooks else ("links",))
    found = check(CQRS)
    assert set(found) == expected
    assert all("Links of" in message.msg for message in found.values())


def test_an_outbox_that_is_off(check):
    master()
    assert set(check({"queue": "tests", "master": {"capture": "trigger", "outbox": False}})) == {"W066"}


# --- what the database has -----------------------------------------------------------------------------------------


@pytest.fixture
def table(engine, by_triggers):
    """A model with its table; gives the model and the connection."""
    connection = connections[routing.current["master"]]
    model = master()
    with connection.schema_editor() as editor:
        editor.create_model(model)
    yield model, connection
    with connection.schema_editor() as editor:
        editor.delete_model(model)


def _found(check, connection):
    return set(check(CQRS, databases=[connection.alias]))


def _remove_one(model, connection):
    (constraint,) = triggers.declared_by(model)
    with connection.cursor() as cursor:
        cursor.execute(constraint.uninstall_sql(model, connection)[-1])


def test_triggers_as_they_should_be(check, table):
    assert _found(check, table[1]) == set()


def test_no_connection_without_a_database_to_check(check, table):
    model, connection = table
    _remove_one(model, connection)
    assert check(CQRS) == {}
    assert check(CQRS, databases=["default"]) == {}


def test_triggers_that_are_missing(check, table):
    model, connection = table
    (constraint,) = triggers.declared_by(model)
    with connection.schema_editor() as editor:
        editor.remove_constraint(model, constraint)
    found = check(CQRS, databases=[connection.alias])
    assert set(found) == {"W062"}
    assert f"cqrs_triggers install --cqrs-id thing --database {connection.alias}" in found["W062"].hint


def test_a_trigger_that_is_missing(check, table):
    _remove_one(*table)
    assert _found(check, table[1]) == {"W064"}


def test_triggers_that_are_outdated(check, table):
    model, connection = table
    (constraint,) = triggers.declared_by(model)
    constraint.fields = constraint.fields[:-1]
    assert _found(check, connection) == {"W064"}


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)  # the others cannot disable a trigger
def test_triggers_that_are_disabled(check, table):
    model, connection = table
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER TABLE "{model._meta.db_table}" DISABLE TRIGGER USER')
    assert _found(check, connection) == {"W063"}


def test_a_table_that_is_not_there_yet(check, engine):
    master()
    assert _found(check, connections[routing.current["master"]]) == set()
