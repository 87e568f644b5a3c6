"""Dumps: what the database writes by itself, and every kind of primary key, from one engine into another."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from django_cqrs_celery import images, rowlines, serialization, sync
from django_cqrs_celery.dataclasses import loads
from tests import conftest, routing
from tests.fidelity.cases import UNPACKED_CASES, same
from tests.fidelity.masters import models as masters
from tests.fidelity.replicas import models as replicas
from tests.fidelity.test_fields import kept
from tests.fidelity.test_keys import KEYS


def test_lines_of_the_database_hold_what_an_image_holds(transactional_db):
    conftest.use_pair("postgresql", "postgresql")
    model, using = masters.Unpacked, routing.current["master"]
    assert rowlines.are_possible(model, "postgresql")
    for column, case in UNPACKED_CASES.items():
        possible = kept("postgresql", masters.Plain, column)
        for (value, _), is_kept in zip(case.plain_values(), possible, strict=True):
            if is_kept:
                model.objects.create(**{column: value})
    found = images.read_rows(model, model.objects.using(using), using)
    [lines] = sync.lines_in_chunks(model.objects.using(using), 10_000)
    assert lines.keys() == found.keys()
    for key, image in found.items():
        line = loads(lines[key])
        assert line.keys() == image.keys()
        for field in images.replicated_fields(model):
            one, other = line[field.name], image[field.name]
            assert same(serialization.decode(field, one), serialization.decode(field, other)), (field.name, one, other)


@pytest.mark.parametrize("pair", [("postgresql", "mariadb"), ("postgresql", "sqlite"), ("mariadb", "postgresql")])
def test_every_primary_key_goes_through_a_dump(pair, transactional_db, tmp_path):
    conftest.use_pair(*pair)
    for name, keys in KEYS.items():
        master, replica = getattr(masters, name), getattr(replicas, name)
        master.cqrs.bulk_create([master(pk=key, note="there") for key in keys])
        path = str(tmp_path / f"{name}.gz")
        call_command("cqrs_bulk_dump", "-c", master.CQRS_ID, "-o", path, "-b", "2")
        call_command("cqrs_bulk_load", "-i", path, "-b", "3")
        assert set(replica.objects.values_list("pk", "note")) == {(key, "there") for key in keys}, name
