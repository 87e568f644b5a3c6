"""Each outcome of each check of many-to-many fields that replicate."""

from __future__ import annotations

import pytest
from django.db import models

from django_cqrs_celery.mixins import MasterMixin, ReplicaMixin


def declare(base, app, through=None, **attributes):
    """A model ``Thing`` with the field ``users``, whose links are in a model of these fields, if any are given."""
    meta = type("Meta", (), {"app_label": app})
    common = {"__module__": __name__, "Meta": meta}
    user = type("User", (models.Model,), {**common, "name": models.CharField(max_length=9, unique=True)})
    many = models.ManyToManyField(user, through=f"{app}.Link" if through else None, related_name="+")
    thing = type("Thing", (base,), {**common, "CQRS_ID": "thing", "users": many, **attributes})
    if through:
        to_field = through.pop("to_field", None)
        common["thing"] = models.ForeignKey(thing, models.CASCADE, related_name="+")
        common["user"] = models.ForeignKey(user, models.CASCADE, to_field=to_field, related_name="+")
        type("Link", (models.Model,), {**common, **through})
    return thing


def master(**options):
    return declare(MasterMixin, "master_app", **options)


def replica(**options):
    return declare(ReplicaMixin, "replica_app", **options)


class Elsewhere:
    """A router that writes links to another database than rows."""

    def db_for_write(self, model, **hints):
        return "sqlite_master" if model.__name__ in ("Link", "Thing_users") else "default"


@pytest.mark.parametrize("names", [None, "__all__", ["users"], ("users",)])
@pytest.mark.parametrize("through", [None, {"since": models.IntegerField()}])
def test_good_master(check, names, through):
    master(CQRS_M2M_FIELDS=names, through=through)
    assert check() == {}


def test_serializer_may_be_had_as_well(check):
    master(CQRS_M2M_FIELDS="__all__", CQRS_SERIALIZER="tests.checks.test_model_checks.Serializer")
    assert check() == {}


@pytest.mark.parametrize("names", ["users", 5, [5], {"users": 1, 2: 3}])
def test_names_that_are_no_list(check, names):
    master(CQRS_M2M_FIELDS=names)
    found = check()
    assert set(found) == {"E030"} and "CQRS_M2M_FIELDS" in found["E030"].msg


@pytest.mark.parametrize("name", ["user", "id"])
def test_name_of_no_many_to_many_field(check, name):
    master(CQRS_M2M_FIELDS=["users", name])
    found = check()
    assert set(found) == {"E031"} and f"no many-to-many field of the model: {name}." in found["E031"].msg
    assert "users" in found["E031"].hint


def test_many_to_many_field_among_the_columns(check):
    master(CQRS_FIELDS=["id", "users"])
    assert "CQRS_M2M_FIELDS: users" in check()["E031"].hint


def test_name_given_twice(check):
    master(CQRS_M2M_FIELDS=["users", "users"])
    assert set(check()) == {"E032"}


@pytest.mark.parametrize("through", [None, {"since": models.IntegerField(default=0)}])
def test_links_in_another_database(check, settings, through):
    settings.DATABASE_ROUTERS = [Elsewhere()]
    thing = master(CQRS_M2M_FIELDS=["users"], through=through)
    found = check()
    assert set(found) == {"E037"} and "Thing.users" in found["E037"].msg and found["E037"].obj is thing


def test_field_that_does_not_travel_may_be_anywhere(check, settings):
    settings.DATABASE_ROUTERS = [Elsewhere()]
    master()
    assert check() == {}


@pytest.mark.parametrize("side", [master, replica])
def test_links_between_what_are_no_keys(check, side):
    side(CQRS_M2M_FIELDS=["users"], through={"to_field": "name"})
    found = check()
    assert set(found) == {"E038"} and "user" in found["E038"].msg


def test_replica_whose_links_need_more_than_travels(check):
    replica(through={"since": models.IntegerField()})
    found = check()
    assert set(found) == {"E047"} and "since" in found["E047"].msg


@pytest.mark.parametrize("options", [
    {}, {"through": {"since": models.IntegerField(default=0), "seen": models.DateTimeField(auto_now_add=True)}},
    {"through": {"since": models.IntegerField()}, "CQRS_MAPPING": {"id": "id"}},
    {"CQRS_MAPPING": {"id": "id", "people": "users"}},
])  # fmt: skip
def test_good_replica(check, options):
    replica(**options)
    assert check() == {}
