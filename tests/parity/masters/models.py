"""The models of a master service that was written for django-cqrs."""

from __future__ import annotations

import uuid

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models
from mptt.models import MPTTModel, TreeForeignKey

from django_cqrs_celery.metas import MasterMeta
from django_cqrs_celery.mixins import MasterMixin, RawMasterMixin


class Publisher(models.Model):
    """Not replicated itself; part of its authors' representation."""

    name = models.CharField(max_length=50)


class Author(MasterMixin):
    """Represented by nested serializers of Django REST framework."""

    CQRS_ID = "parity.author"
    CQRS_SERIALIZER = "tests.parity.masters.serializers.AuthorSerializer"

    name = models.CharField(max_length=50)
    publisher = models.ForeignKey(Publisher, null=True, on_delete=models.SET_NULL)

    @classmethod
    def relate_cqrs_serialization(cls, queryset):
        return queryset.select_related("publisher").prefetch_related("books")


class Book(models.Model):
    title = models.CharField(max_length=50)
    author = models.ForeignKey(Author, related_name="books", on_delete=models.CASCADE)


class Person(MasterMixin):
    """Represented by a plain class."""

    CQRS_ID = "parity.person"
    CQRS_SERIALIZER = "tests.parity.masters.serializers.PersonSerializer"

    first_name = models.CharField(max_length=50)
    last_name = models.CharField(max_length=50)


class Owner(models.Model):
    name = models.CharField(max_length=50)


class Account(MasterMixin):
    """A choice of fields, tracked ones, and every hook of an instance; ``calls`` has what was asked of them."""

    CQRS_ID = "parity.account"
    CQRS_PRODUCE = True
    CQRS_FIELDS = ["id", "name", "status", "balance", "owner"]
    CQRS_TRACKED_FIELDS = ["status", "owner"]

    name = models.CharField(max_length=50)
    status = models.CharField(max_length=10, null=True)
    balance = models.IntegerField(default=0)
    owner = models.ForeignKey(Owner, null=True, on_delete=models.SET_NULL)
    notes = models.CharField(max_length=50, default="")

    calls: list[tuple] = []

    def is_sync_instance(self):
        self.calls.append(("is_sync_instance", self.cqrs_saves_count))
        return self.status != "draft"

    def get_cqrs_meta(self, **kwargs):
        self.calls.append(("get_cqrs_meta", kwargs))
        meta = super().get_cqrs_meta(**kwargs)
        meta["by"] = "hook"
        return meta

    def get_custom_cqrs_delete_data(self):
        self.calls.append(("get_custom_cqrs_delete_data",))
        return {"name": self.name}


class Parcel(MasterMixin):
    """A UUID as primary key, every field tracked."""

    CQRS_ID = "parity.parcel"
    CQRS_TRACKED_FIELDS = "__all__"

    code = models.UUIDField(primary_key=True, default=uuid.uuid4)
    weight = models.DecimalField(max_digits=20, decimal_places=2, default=0)
    sent = models.DateField(null=True)


class Quiet(MasterMixin):
    CQRS_ID = "parity.quiet"
    CQRS_PRODUCE = False

    name = models.CharField(max_length=50)


@MasterMeta.register
class Category(MPTTModel, RawMasterMixin):
    """A model with a metaclass of its own."""

    CQRS_ID = "parity.category"
    CQRS_FIELDS = ["id", "name", "parent"]

    name = models.CharField(max_length=50)
    parent = TreeForeignKey("self", null=True, on_delete=models.CASCADE, related_name="children")


class Named(MasterMixin):
    """An abstract base of the project's own."""

    CQRS_ID = None

    name = models.CharField(max_length=50)

    class Meta:
        abstract = True


class Vehicle(Named):
    CQRS_ID = "parity.vehicle"
    CQRS_TRACKED_FIELDS = ["name"]


class Car(Vehicle):
    """A table beside its parent's."""

    CQRS_ID = "parity.car"
    CQRS_TRACKED_FIELDS = ["doors"]

    doors = models.IntegerField(default=4)


class LoudVehicle(Vehicle):
    class Meta:
        proxy = True

    def shout(self):
        self.name = self.name.upper()
        self.save()


class Label(MasterMixin):
    """A generic foreign key."""

    CQRS_ID = "parity.label"

    text = models.CharField(max_length=50)
    content_type = models.ForeignKey(ContentType, on_delete=models.CASCADE, db_constraint=False)
    object_id = models.PositiveIntegerField()
    target = GenericForeignKey()
