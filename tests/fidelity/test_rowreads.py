"""Rows read by a statement that was made once are what the ORM reads."""

from __future__ import annotations

import pytest
from django.db import connections, models
from django.test.utils import CaptureQueriesContext

from django_cqrs_celery import images, rowreads
from tests import conftest, routing
from tests.fidelity.cases import CASES, POSTGRESQL_CASES
from tests.fidelity.masters import models as masters
from tests.fidelity.test_fields import kept
from tests.fidelity.test_keys import KEYS

WIDE = [("Everything", "Plain", CASES), ("Special", "PlainSpecial", POSTGRESQL_CASES)]


def both(model, using, keys):
    """Images by the statement and by the ORM."""
    rows = model._base_manager.using(using).filter(pk__in=keys).order_by()
    return images.read(model, [images.serialization.pk_text(images.wire_pk(model, key)) for key in keys], using), (
        images.read_rows(model, rows, using)
    )


@pytest.mark.parametrize(("name", "plain", "cases"), WIDE, ids=[name for name, *_ in WIDE])
def test_every_value(name, plain, cases, transactional_db):
    conftest.use_pair("postgresql", "postgresql")
    model, using = getattr(masters, name), routing.current["master"]
    keys = []
    for column, case in cases.items():
        possible = kept("postgresql", getattr(masters, plain), column)
        for (value, _), is_kept in zip(case.plain_values(), possible, strict=True):
            if is_kept:
                keys.append(model.objects.create(**{column: value}).pk)
    by_statement, by_orm = both(model, using, keys)
    assert len(by_statement) == len(keys)
    assert by_statement == by_orm
    for key in keys[:3]:
        by_statement, by_orm = both(model, using, [key])
        assert by_statement == by_orm


@pytest.mark.parametrize("name", KEYS)
def test_every_key(name, transactional_db):
    conftest.use_pair("postgresql", "postgresql")
    model, using = getattr(masters, name), routing.current["master"]
    for key in KEYS[name]:
        model.objects.create(pk=key, note="created")
    by_statement, by_orm = both(model, using, KEYS[name])
    assert by_statement.keys() == by_orm.keys() and len(by_orm) == len(KEYS[name])
    assert by_statement == by_orm


def test_the_statement_is_made_once(transactional_db, monkeypatch):
    conftest.use_pair("postgresql", "postgresql")
    model, using = masters.Huge, routing.current["master"]
    model.objects.create(pk=1, note="one")
    model.objects.create(pk=2, note="two")
    images.read(model, ["1"], using)
    monkeypatch.setattr(models.QuerySet, "filter", pytest.fail)
    with CaptureQueriesContext(connections[using]) as queries:
        found = images.read(model, ["1", "2", "3"], using)
    assert {key: image["note"] for key, image in found.items()} == {"1": "one", "2": "two"}
    assert len(queries) == 1


def test_a_manager_of_the_projects_is_asked_each_time(transactional_db):
    conftest.use_pair("postgresql", "postgresql")

    class Own(models.Manager):
        pass

    class Kept(models.Model):
        objects = Own()

        class Meta:
            app_label = "masters"
            base_manager_name = "objects"

    assert rowreads.by_keys(Kept, [1], routing.current["master"], lambda rows: rows.values_list("pk")) is None


@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_other_engines_ask_the_orm(engine, transactional_db):
    conftest.use_pair(engine, engine)
    using = routing.current["master"]
    assert rowreads.by_keys(masters.Huge, [1], using, lambda rows: rows.values_list("pk")) is None
    masters.Huge.objects.create(pk=1, note="one")
    assert images.read(masters.Huge, ["1"], using)["1"]["note"] == "one"
