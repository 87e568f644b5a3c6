"""Models of the replica service: one with the default hooks, one with hooks of its own."""

from importlib import import_module

from django.db import models

from benchmarks.environment import LIBRARY

ReplicaMixin = import_module(f"{LIBRARY}.mixins").ReplicaMixin


class Columns(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=100)
    email = models.CharField(max_length=200)
    balance = models.DecimalField(max_digits=12, decimal_places=2)
    is_active = models.BooleanField(default=True)
    joined = models.DateTimeField()
    note = models.TextField(default="")

    class Meta:
        abstract = True


class Person(ReplicaMixin, Columns):
    CQRS_ID = "person"

    class Meta:
        db_table = "person"


class Hooked(ReplicaMixin, Columns):
    CQRS_ID = "hooked"

    class Meta:
        db_table = "hooked"

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        return super().cqrs_create(sync, mapped_data, previous_data=previous_data)

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        return super().cqrs_update(sync, mapped_data, previous_data=previous_data)
