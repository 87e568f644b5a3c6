"""Every field type and its extreme values, between every two databases, by both ways of applying."""

from __future__ import annotations

import json
from functools import cache

import kombu.utils.json
import pytest
from django.db import models, transaction

from django_cqrs_celery import images, recordsets, serialization, upserts
from django_cqrs_celery.models import DeadLetter, OutboxMessage
from tests import conftest, routing
from tests.fidelity import hooked
from tests.fidelity.cases import CASES, POSTGRESQL_CASES, UNPACKED_CASES, same
from tests.fidelity.masters import models as masters
from tests.fidelity.replicas import models as replicas

PAIRS = [(one, other) for one in conftest.ENGINES for other in conftest.ENGINES]
PAIR_IDS = [f"{one}-{other}" for one, other in PAIRS]


def read(model, using, pk, column):
    """What a column holds: its Python value, and whether that stands for the SQL NULL."""
    null = models.ExpressionWrapper(models.Q(**{f"{column}__isnull": True}), output_field=models.BooleanField())
    return model._base_manager.using(using).annotate(null_=null).values_list(column, "null_").filter(pk=pk).first()


def expected(value):
    """What ``read`` gives for a value."""
    if value is None:
        return None, True
    return (value.value if isinstance(value, models.Value) else value), False


def is_kept(model, using, column, value):
    """Whether Django itself reads back what it was given: no replication in this."""
    try:
        with transaction.atomic(using=using):
            row = model._base_manager.using(using).create(**{column: value})
            got, is_null = read(model, using, row.pk, column)
            row.delete()
    except Exception:  # the drivers raise many; that not too much is taken for lost is a test of its own
        return False
    want, want_null = expected(value)
    return same(got, want) and bool(is_null) is want_null


@cache
def kept(engine, model, column):
    """Which values of a case an engine can keep, by position."""
    cases = CASES if model is masters.Plain else POSTGRESQL_CASES
    return tuple(is_kept(model, f"{engine}_master", column, value) for value, _ in cases[column].plain_values())


@pytest.mark.parametrize("engine", conftest.ENGINES)
def test_the_table_tells_truly_what_an_engine_cannot_keep(engine, transactional_db):
    conftest.use_pair(engine, engine)
    tables = [(masters.Plain, CASES)]
    if engine == "postgresql":
        tables.append((masters.PlainSpecial, POSTGRESQL_CASES))
    untrue = []
    for model, cases in tables:
        for column, case in cases.items():
            for (value, why), measured in zip(case.plain_values(), kept(engine, model, column), strict=True):
                if measured is (engine in why):
                    untrue.append(f"{column}: {str(value)[:80]!r} is {'' if measured else 'not '}kept")
    assert not untrue, "\n".join(untrue)


class Run:
    """One row for each value that both databases can keep."""

    def __init__(self, net, master, replica, plain, cases, pair):
        self.net, self.master, self.replica = net, master, replica
        self.rows = []
        for column, case in cases.items():
            possible = zip(kept(pair[0], plain, column), kept(pair[1], plain, column), strict=True)
            values = [v for (v, _), both in zip(case.plain_values(), possible, strict=True) if all(both)]
            assert values, column
            self.rows += [(column, value) for value in values]

    def deliver(self):
        self.net.pump()
        for message in self.net.messages:
            # What a stock worker, or whoever listens, makes of the message.
            assert kombu.utils.json.loads(message.body)[1]["changes"]
            json.loads(message.body, parse_constant=pytest.fail)
        self.net.deliver()
        self.net.messages.clear()

    def differences(self, pks, values):
        """Columns and values that the replica has otherwise than the master was given them."""
        found = [f"dead letter: {x.error_class} {x.error_message}" for x in DeadLetter.objects.all()]
        found += [f"not sent: {x.error}" for x in OutboxMessage.objects.failed()]
        for pk, (column, value) in zip(pks, values, strict=True):
            want, want_null = expected(value)
            row = read(self.replica, routing.current["replica"], pk, column)
            if row is None:
                found.append(f"{column}: {str(value)[:80]!r} did not arrive")
                continue
            got, is_null = row
            if not same(got, want) or bool(is_null) is not want_null:
                found.append(f"{column}: {str(value)[:80]!r} became {str(got)[:80]!r}{' (NULL)' * is_null}")
        return found


    def check(self):
        """Create every row, then write each value over another one."""
        using = routing.current["master"]
        with transaction.atomic(using=using):
            pks = [self.master.objects.create(**{column: value}).pk for column, value in self.rows]
        self.deliver()
        assert not (wrong := self.differences(pks, self.rows)), "\n".join(wrong[:20])
        turned = [
            (column, self.rows[i - 1][1] if self.rows[i - 1][0] == column else value)
            for i, (column, value) in enumerate(self.rows)
        ]
        with transaction.atomic(using=using):
            for pk, (column, value) in zip(pks, turned, strict=True):
                row = self.master.objects.get(pk=pk)
                setattr(row, column, value)
                row.save()
        self.deliver()
        assert not (wrong := self.differences(pks, turned)), "\n".join(wrong[:20])


@pytest.mark.parametrize("way", hooked.WAYS)
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_every_field(pair, way, net, monkeypatch):
    conftest.use_pair(*pair)
    hooked.take_way(way, monkeypatch, replicas.Everything)
    Run(net, masters.Everything, replicas.Everything, masters.Plain, CASES, pair).check()


@pytest.mark.parametrize("master", conftest.ENGINES)
def test_fields_that_postgresql_unpacks_itself(master, net):
    pair = (master, "postgresql")
    conftest.use_pair(*pair)
    assert recordsets.for_plan(upserts.plan_of(replicas.Unpacked), routing.current["replica"])
    Run(net, masters.Unpacked, replicas.Unpacked, masters.Plain, UNPACKED_CASES, pair).check()


@pytest.mark.parametrize("way", hooked.WAYS)
def test_fields_that_only_postgresql_has(way, net, monkeypatch):
    pair = ("postgresql", "postgresql")
    conftest.use_pair(*pair)
    hooked.take_way(way, monkeypatch, replicas.Special)
    Run(net, masters.Special, replicas.Special, masters.PlainSpecial, POSTGRESQL_CASES, pair).check()


@pytest.mark.parametrize("engine", conftest.ENGINES)
def test_wire_values_are_scalars(engine, transactional_db):
    """Whoever reads the messages without Django finds numbers, texts, booleans; objects and lists in JSON alone."""
    conftest.use_pair(engine, engine)
    for column, case in CASES.items():
        field = masters.Everything._meta.get_field(column)
        for value, why in case.plain_values():
            if value is None or engine in why:
                continue
            row = masters.Everything.objects.create(**{column: value})
            image = images.read(masters.Everything, [str(row.pk)], routing.current["master"])[str(row.pk)]
            wire = image[column]
            assert type(wire) in (int, float, bool, str) or serialization.is_json_column(field), (column, wire)
