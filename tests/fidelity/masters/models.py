"""Masters of the fidelity tests; the wide ones have a column for each case of the table."""

from __future__ import annotations

import uuid

from django.db import models

from django_cqrs_celery.mixins import MasterMixin
from tests.fidelity.cases import CASES, POSTGRESQL_CASES, UNPACKED_CASES


def _columns(cases):
    return {name: case.make() for name, case in cases.items()}


class _OnlyPostgreSQL:
    app_label = "masters"
    required_db_vendor = "postgresql"


def _model(name, bases, **attributes):
    return type(name, bases, {"__module__": __name__, **attributes})


Everything = _model("Everything", (MasterMixin,), CQRS_ID="everything", **_columns(CASES))
Unpacked = _model("Unpacked", (MasterMixin,), CQRS_ID="unpacked", **_columns(UNPACKED_CASES))
#: The same columns without replication: what Django itself can keep on an engine.
Plain = _model("Plain", (models.Model,), **_columns(CASES))

if POSTGRESQL_CASES:
    Special = _model(
        "Special", (MasterMixin,), CQRS_ID="special", Meta=_OnlyPostgreSQL, **_columns(POSTGRESQL_CASES)
    )  # fmt: skip
    PlainSpecial = _model("PlainSpecial", (models.Model,), Meta=_OnlyPostgreSQL, **_columns(POSTGRESQL_CASES))


class Invoice(MasterMixin):
    """A column that the database computes, and one whose default it knows."""

    CQRS_ID = "invoice"

    net = models.IntegerField()
    gross = models.GeneratedField(
        expression=models.F("net") * 2, output_field=models.BigIntegerField(), db_persist=True
    )
    state = models.CharField(max_length=10, db_default="new")


class Currency(MasterMixin):
    CQRS_ID = "currency"

    code = models.CharField(max_length=8, unique=True)


class Price(MasterMixin):
    """Refers to a column that is not the primary key."""

    CQRS_ID = "price"

    currency = models.ForeignKey(Currency, models.CASCADE, to_field="code", null=True, db_column="cur")
    amount = models.IntegerField()


class Token(MasterMixin):
    CQRS_ID = "token"

    key = models.UUIDField(primary_key=True, default=uuid.uuid4)
    note = models.CharField(max_length=50)


class Profile(MasterMixin):
    """Its primary key is a one-to-one key to a UUID."""

    CQRS_ID = "profile"

    token = models.OneToOneField(Token, models.CASCADE, primary_key=True)
    note = models.CharField(max_length=50)


class Word(MasterMixin):
    CQRS_ID = "word"

    text = models.CharField(max_length=255, primary_key=True)
    note = models.CharField(max_length=50)


class Huge(MasterMixin):
    CQRS_ID = "huge"

    number = models.BigIntegerField(primary_key=True)
    note = models.CharField(max_length=50)


class Rate(MasterMixin):
    """Its primary key can be written in several ways: ``1.5``, ``1.50``."""

    CQRS_ID = "rate"

    value = models.DecimalField(max_digits=10, decimal_places=2, primary_key=True)
    note = models.CharField(max_length=50)


class Moment(MasterMixin):
    """Its primary key can be written in the time of any zone."""

    CQRS_ID = "moment"

    at = models.DateTimeField(primary_key=True)
    note = models.CharField(max_length=50)


class Day(MasterMixin):
    CQRS_ID = "day"

    day = models.DateField(primary_key=True)
    note = models.CharField(max_length=50)


class Small(MasterMixin):
    """An automatic primary key of another size, not called ``id``."""

    CQRS_ID = "small"

    nr = models.SmallAutoField(primary_key=True)
    note = models.CharField(max_length=50)


class Middle(MasterMixin):
    CQRS_ID = "middle"

    nr = models.AutoField(primary_key=True)
    note = models.CharField(max_length=50)
