"""Each outcome of each check of models and of where their tables are."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.core.checks import WARNING
from django.db import connections, models
from django.db.models.functions import Upper
from django.utils import timezone

from django_cqrs_celery.constants import CQRS_ID_MAX_LENGTH
from django_cqrs_celery.managers import MasterQuerySet
from django_cqrs_celery.metas import MasterMeta, ReplicaMeta
from django_cqrs_celery.mixins import MasterMixin, RawMasterMixin, RawReplicaMixin, ReplicaMixin
from django_cqrs_celery.models import Presence
from tests import routing

SERIALIZER = "tests.checks.test_model_checks.Serializer"
NOT_CALLABLE = "text"


class Serializer:
    def __init__(self, instance):
        self.data = {}


class Opaque(models.Field):
    """Stored, but no text of a value can be read back."""

    def db_type(self, connection):
        return "text"


def _model(base, side, **attributes):
    attributes = {"CQRS_ID": "thing", "__module__": __name__, **attributes}
    attributes["Meta"] = type("Meta", (), {"app_label": f"{side}_app"})
    return type("Thing", (base,), attributes)


def master(base=MasterMixin, **attributes):
    """Declare a master model for this test."""
    attributes.setdefault("name", models.CharField(max_length=50))
    return _model(base, "master", **attributes)


def replica(base=ReplicaMixin, **attributes):
    """Declare a replica model for this test."""
    attributes.setdefault("name", models.CharField(max_length=50))
    return _model(base, "replica", **attributes)


def key(**options):
    return models.CharField(primary_key=True, **options)


# --- what is right -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"CQRS_FIELDS": ["id", "name"]},
        {"CQRS_FIELDS": ("id", "name", "cqrs_revision")},
        {"CQRS_TRACKED_FIELDS": ["name"]},
        {"CQRS_TRACKED_FIELDS": "__all__"},
        {"CQRS_SERIALIZER": SERIALIZER},
        {"CQRS_PRODUCE": False},
        {"CQRS_ID": "shop.things_2"},
        {"CQRS_FIELDS": ["id"], "extra": Opaque()},
        {"CQRS_SERIALIZER": SERIALIZER, "extra": Opaque()},
        {"key": key(max_length=255)},
        {"user": models.ForeignKey(User, models.CASCADE)},
        {"user": models.OneToOneField(User, models.CASCADE, primary_key=True)},
    ],
)
def test_good_master(check, attributes):
    master(**attributes)
    assert check() == {}


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"CQRS_MAPPING": {"id": "id", "title": "name"}},
        {"CQRS_MAPPING": {"id": "id", "user": "user_id"}, "user": models.ForeignKey(User, models.CASCADE)},
        {"CQRS_ONLY_DIRECT_SYNCS": True, "CQRS_META": True},
        {"CQRS_MAPPING": {"id": "id"}, "seen": models.DateTimeField(auto_now_add=True)},
        {"CQRS_CUSTOM_SERIALIZATION": True, "extra": Opaque(), "seen": models.DateTimeField(auto_now=True)},
    ],
)
def test_good_replica(check, attributes):
    replica(**attributes)
    assert check() == {}


# --- both sides ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declare", [master, replica])
@pytest.mark.parametrize("cqrs_id", [None, "", 5])
def test_no_cqrs_id(check, declare, cqrs_id):
    model = declare(CQRS_ID=cqrs_id)
    found = check()
    assert set(found) == {"E020"} and model._meta.label in found["E020"].msg


@pytest.mark.parametrize("declare", [master, replica])
def test_two_of_one_cqrs_id(check, declare):
    first = declare()
    second = type("Other", (first.__bases__[0],), {
        "CQRS_ID": "thing", "__module__": __name__, "Meta": type("Meta", (), {"app_label": first._meta.app_label}),
    })  # fmt: skip
    found = check()
    assert set(found) == {"E021"} and found["E021"].obj is second
    assert first._meta.label in found["E021"].msg and second._meta.label in found["E021"].msg


def test_two_targets_of_one_cqrs_id_that_are_no_models(check):
    def target(name):
        hooks = {hook: classmethod(lambda cls, *args, **kwargs: True) for hook in ("cqrs_save", "cqrs_delete")}
        return ReplicaMeta.register(type(name, (RawReplicaMixin,), {"CQRS_ID": "thing", **hooks}))

    target("One")
    target("Two")
    found = check()
    assert set(found) == {"E021"} and ".Two " in found["E021"].msg and ".One." in found["E021"].msg


@pytest.mark.parametrize("declare", [master, replica])
@pytest.mark.parametrize(
    "cqrs_id",
    ["x" * (CQRS_ID_MAX_LENGTH + 1), "   ", " thing", "thing ", "a.*", "a#", "cqrs.thing"],
)
def test_bad_cqrs_id(check, declare, cqrs_id):
    declare(CQRS_ID=cqrs_id)
    assert set(check()) == {"E022"}


@pytest.mark.parametrize("cqrs", [{"queue": "q" * 150}, {"queue": "q", "master": {"replicas": ["r" * 150]}}])
def test_routing_key_that_is_too_long(check, cqrs):
    master(CQRS_ID="x" * CQRS_ID_MAX_LENGTH)
    found = check(cqrs)
    assert set(found) == {"E022"} and "routing key" in found["E022"].msg


@pytest.mark.parametrize("declare", [master, replica])
def test_composite_primary_key(check, declare):
    declare(pk=models.CompositePrimaryKey("name", "number"), number=models.IntegerField())
    assert set(check()) == {"E023"}


@pytest.mark.parametrize("declare", [master, replica])
@pytest.mark.parametrize("make", [lambda: key(max_length=256), lambda: models.TextField(primary_key=True)])
def test_long_primary_key(check, declare, make):
    declare(code=make())
    found = check()
    assert set(found) == {"E024"} and "Thing.code" in found["E024"].msg


@pytest.mark.parametrize("declare", [master, replica])
def test_field_that_cannot_travel(check, declare):
    declare(secret=Opaque())
    found = check()
    assert set(found) == {"E025"} and "Thing.secret" in found["E025"].msg and "Opaque" in found["E025"].msg


def test_tracked_field_that_cannot_travel(check):
    master(secret=Opaque(), CQRS_FIELDS=["id"], CQRS_TRACKED_FIELDS=["secret"])
    assert set(check()) == {"E025"}


@pytest.mark.parametrize("declare", [master, replica])
@pytest.mark.parametrize("column", ["cqrs_revision", "cqrs_updated"])
def test_without_its_columns(check, declare, column):
    declare(**{column: None})
    found = check()
    assert set(found) == {"E026"} and column in found["E026"].msg


def test_revision_that_saves_do_not_raise(check):
    master(cqrs_revision=models.IntegerField(default=0))
    assert set(check()) == {"E026"}


def test_master_without_the_mixin(check):
    MasterMeta.register(master(models.Model))
    assert set(check()) == {"E026"}


def test_master_with_the_raw_mixin(check):
    MasterMeta.register(master(RawMasterMixin))
    assert check() == {}


@pytest.mark.parametrize("attribute", ["CQRS_ONLY_DIRECT_SYNCS", "CQRS_META", "CQRS_SELECT_FOR_UPDATE"])
def test_flag_of_a_replica_that_is_none(check, attribute):
    replica(**{attribute: "yes"})
    found = check()
    assert set(found) == {"E027"} and attribute in found["E027"].msg


def test_flag_of_a_master_that_is_none(check):
    master(CQRS_PRODUCE=1)
    assert set(check()) == {"E027"}


# --- masters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ["CQRS_FIELDS", "CQRS_TRACKED_FIELDS"])
@pytest.mark.parametrize("names", ["id", 5, [5], ["id", ""]])
def test_names_that_are_no_list(check, attribute, names):
    master(**{attribute: names})
    found = check()
    assert "E030" in found and attribute in found["E030"].msg


def test_fields_none(check):
    master(CQRS_FIELDS=None)
    assert set(check()) == {"E030"}


@pytest.mark.parametrize("attribute", ["CQRS_FIELDS", "CQRS_TRACKED_FIELDS"])
@pytest.mark.parametrize("name", ["nmae", "groups"])
def test_unknown_name(check, attribute, name):
    master(**{attribute: ["id", name], "groups": models.ManyToManyField(User)})
    found = check()
    assert set(found) == {"E031"} and found["E031"].msg.endswith(f": {name}.")


@pytest.mark.parametrize("attribute", ["CQRS_FIELDS", "CQRS_TRACKED_FIELDS"])
def test_name_given_twice(check, attribute):
    master(**{attribute: ["id", "name", "name"]})
    found = check()
    assert set(found) == {"E032"} and found["E032"].msg.endswith(": name.")


def test_fields_without_the_primary_key(check):
    master(CQRS_FIELDS=["name"])
    assert set(check()) == {"E033"}


def test_fields_and_serializer(check):
    master(CQRS_FIELDS=["id"], CQRS_SERIALIZER=SERIALIZER)
    assert set(check()) == {"E034"}


@pytest.mark.parametrize("path", ["no.such.Class", "Serializer", __name__ + ".NOT_CALLABLE", __name__ + ".Nope", 5])
def test_serializer_that_cannot_be_imported(check, path):
    master(CQRS_SERIALIZER=path)
    assert set(check()) == {"E035"}


def test_manager_whose_bulk_writes_nobody_hears_of(check):
    master(people=models.Manager())
    found = check()
    assert set(found) == {"W036"} and found["W036"].level == WARNING
    assert "Thing.people" in found["W036"].msg and "MasterQuerySet" in found["W036"].hint


def test_manager_with_querysets_that_replicate(check):
    master(people=models.Manager.from_queryset(MasterQuerySet)())
    assert not check()


# --- replicas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", [["id", "name"], "id", {"id": 5}, {5: "id"}, {"id": ""}])
def test_mapping_that_is_no_dict(check, mapping):
    replica(CQRS_MAPPING=mapping)
    assert set(check()) == {"E040"}


def test_mapping_without_the_primary_key(check):
    replica(CQRS_MAPPING={"name": "name"})
    assert set(check()) == {"E041"}


@pytest.mark.parametrize("name", ["nmae", "loud"])
def test_mapping_to_what_is_no_column(check, name):
    loud = models.GeneratedField(
        expression=Upper("name"), output_field=models.CharField(max_length=50), db_persist=True
    )
    replica(CQRS_MAPPING={"id": "id", "x": name}, loud=loud)
    found = check()
    assert set(found) == {"E042"} and f": {name}." in found["E042"].msg


@pytest.mark.parametrize("mapping", [{"a": "name", "b": "name"}, {"a": "user", "b": "user_id"}])
def test_mapping_of_two_to_one(check, mapping):
    replica(CQRS_MAPPING={"id": "id", **mapping}, user=models.ForeignKey(User, models.CASCADE))
    assert set(check()) == {"E043"}


@pytest.mark.parametrize("given", [(), ("cqrs_save",), ("cqrs_delete",)])
@pytest.mark.parametrize("base", [RawReplicaMixin, ReplicaMixin])
def test_target_without_hooks(check, given, base):
    hooks = {hook: classmethod(lambda cls, *args, **kwargs: True) for hook in given}
    if base is ReplicaMixin:
        replica(CQRS_NO_DB_OPERATIONS=True, **hooks)
    else:
        ReplicaMeta.register(type("Thing", (base,), {"CQRS_ID": "thing", **hooks}))
    assert set(check()) == {"E044"}


@pytest.mark.parametrize("base", [RawReplicaMixin, ReplicaMixin])
def test_target_with_hooks(check, base):
    hooks = {hook: classmethod(lambda cls, *args, **kwargs: True) for hook in ("cqrs_save", "cqrs_delete")}
    if base is ReplicaMixin:
        replica(CQRS_NO_DB_OPERATIONS=True, **hooks)
    else:
        ReplicaMeta.register(type("Thing", (base,), {"CQRS_ID": "thing", **hooks}))
    assert check() == {}


def test_replica_without_the_mixin(check):
    ReplicaMeta.register(type("Thing", (), {"CQRS_ID": "thing"}))
    assert set(check()) == {"E044"}


@pytest.mark.parametrize("option", ["auto_now", "auto_now_add"])
def test_stamped_column(check, option):
    replica(seen=models.DateTimeField(**{option: True}))
    found = check()
    assert set(found) == {"W045"} and found["W045"].level == WARNING
    assert "Thing.seen" in found["W045"].msg and option in found["W045"].hint


# --- tables --------------------------------------------------------------------------------------------------------


class KeepsOut:
    """A router that keeps some of the tables out of the database of the models."""

    tables: tuple[str, ...] = ()

    def db_for_write(self, model, **hints):
        return "default"

    def allow_migrate(self, db, app_label, model_name=None, **hints):
        return not (app_label == "django_cqrs_celery" and model_name in self.tables)


@pytest.mark.django_db
@pytest.mark.parametrize("tables", [("outboxmessage",), ("tombstone",), ("deadletter",), ()])
@pytest.mark.parametrize("side", ["master", "replica"])
def test_tables_where_the_models_are(check, settings, tables, side):
    router = KeepsOut()
    router.tables = tables
    settings.DATABASE_ROUTERS = [router]
    master() if side == "master" else replica()
    needed = {"master": {"outboxmessage"}, "replica": {"tombstone", "deadletter"}}[side]
    found = check(databases=["default"])
    assert set(found) == ({"E060"} if set(tables) & needed else set())


@pytest.mark.usefixtures("transactional_db")
def test_a_replica_that_was_away_for_longer_than_it_remembers_deletes(check):
    replica()
    alias = routing.current["replica"]
    Presence.objects.create(queue="tests")
    assert check(databases=[alias]) == {}
    Presence.objects.update(away_since=timezone.now(), away_until=timezone.now())
    found = check(databases=[alias])
    assert set(found) == {"W061"} and found["W061"].level == WARNING
    assert "No worker consumed tests" in found["W061"].msg and "--synchronised" in found["W061"].hint
    assert check() == {}


def test_tables_of_a_database_that_is_not_checked(check, settings):
    router = KeepsOut()
    router.tables = ("outboxmessage",)
    settings.DATABASE_ROUTERS = [router]
    master()
    assert check(databases=["sqlite_master"]) == {}


@pytest.mark.parametrize(
    ("alias", "level", "found"),
    [
        ("mariadb_replica", "repeatable read", {"W046"}),
        ("mariadb_replica", None, {"W046"}),
        ("mariadb_replica", "read committed", set()),
        ("postgresql_replica", 3, set()),
        ("sqlite_replica", "SERIALIZABLE", set()),
    ],
)
def test_isolation_with_old_snapshots(check, monkeypatch, alias, level, found):
    if alias not in connections:
        pytest.skip(f"no {alias} in this run")
    monkeypatch.setitem(routing.current, "replica", alias)
    if alias.startswith("postgresql"):
        isolation = pytest.importorskip("psycopg").IsolationLevel
        level, found = isolation.SERIALIZABLE, {"W046"}
    monkeypatch.setitem(connections[alias].settings_dict["OPTIONS"], "isolation_level", level)
    replica(id=models.BigIntegerField(primary_key=True))
    messages = check()
    assert set(messages) == found
    if found:
        assert alias in messages["W046"].msg and messages["W046"].level == WARNING


def test_a_geometry_is_told_what_to_do(check):
    class PointField(models.Field):
        """As GeoDjango's: stored, without text."""

        __module__ = "django.contrib.gis.db.models.fields"

    master(place=PointField())
    assert "ewkt" in check()["E025"].hint
