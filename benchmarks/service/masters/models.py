"""Models of the master service: a plain one, the same one replicated, and again for a replica with hooks."""

from importlib import import_module

from django.db import models
from django.utils import timezone

from benchmarks.environment import LIBRARY

MasterMixin = import_module(f"{LIBRARY}.mixins").MasterMixin


class Columns(models.Model):
    id = models.AutoField(primary_key=True)
    name = models.CharField(max_length=100)
    email = models.CharField(max_length=200)
    balance = models.DecimalField(max_digits=12, decimal_places=2)
    is_active = models.BooleanField(default=True)
    joined = models.DateTimeField(default=timezone.now)
    note = models.TextField(default="")

    class Meta:
        abstract = True


class PlainPerson(Columns):
    class Meta:
        db_table = "plain_person"


class Person(MasterMixin, Columns):
    CQRS_ID = "person"

    class Meta:
        db_table = "person"


class Hooked(MasterMixin, Columns):
    CQRS_ID = "hooked"

    class Meta:
        db_table = "hooked"
