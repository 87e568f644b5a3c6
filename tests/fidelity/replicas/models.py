"""Replicas of ``tests.fidelity.masters``."""

from __future__ import annotations

from django.db import models

from django_cqrs_celery.mixins import ReplicaMixin
from tests.fidelity.cases import CASES, POSTGRESQL_CASES, UNPACKED_CASES


def _columns(cases):
    return {name: case.make() for name, case in cases.items()}


class _OnlyPostgreSQL:
    app_label = "replicas"
    required_db_vendor = "postgresql"


def _model(name, **attributes):
    return type(name, (ReplicaMixin,), {"__module__": __name__, **attributes})


Everything = _model("Everything", CQRS_ID="everything", **_columns(CASES))
Unpacked = _model("Unpacked", CQRS_ID="unpacked", **_columns(UNPACKED_CASES))
if POSTGRESQL_CASES:
    Special = _model("Special", CQRS_ID="special", Meta=_OnlyPostgreSQL, **_columns(POSTGRESQL_CASES))


class Invoice(ReplicaMixin):
    CQRS_ID = "invoice"

    net = models.IntegerField()
    gross = models.BigIntegerField()
    state = models.CharField(max_length=10)


class Currency(ReplicaMixin):
    CQRS_ID = "currency"

    id = models.BigIntegerField(primary_key=True)
    code = models.CharField(max_length=8, unique=True)


class Price(ReplicaMixin):
    CQRS_ID = "price"

    currency = models.ForeignKey(Currency, models.CASCADE, to_field="code", null=True)
    amount = models.IntegerField()


class Token(ReplicaMixin):
    CQRS_ID = "token"

    key = models.UUIDField(primary_key=True)
    note = models.CharField(max_length=50)


class Profile(ReplicaMixin):
    CQRS_ID = "profile"

    token = models.OneToOneField(Token, models.CASCADE, primary_key=True)
    note = models.CharField(max_length=50)


class Word(ReplicaMixin):
    CQRS_ID = "word"

    text = models.CharField(max_length=255, primary_key=True)
    note = models.CharField(max_length=50)


class Huge(ReplicaMixin):
    CQRS_ID = "huge"

    number = models.BigIntegerField(primary_key=True)
    note = models.CharField(max_length=50)


class Rate(ReplicaMixin):
    CQRS_ID = "rate"

    value = models.DecimalField(max_digits=10, decimal_places=2, primary_key=True)
    note = models.CharField(max_length=50)


class Moment(ReplicaMixin):
    CQRS_ID = "moment"

    at = models.DateTimeField(primary_key=True)
    note = models.CharField(max_length=50)


class Day(ReplicaMixin):
    CQRS_ID = "day"

    day = models.DateField(primary_key=True)
    note = models.CharField(max_length=50)


class Small(ReplicaMixin):
    CQRS_ID = "small"

    nr = models.SmallIntegerField(primary_key=True)
    note = models.CharField(max_length=50)


class Middle(ReplicaMixin):
    CQRS_ID = "middle"

    nr = models.IntegerField(primary_key=True)
    note = models.CharField(max_length=50)
