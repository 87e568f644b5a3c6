"""The models of a replica service that was written for django-cqrs."""

from __future__ import annotations

from django.db import models
from mptt.models import MPTTModel, TreeForeignKey

from django_cqrs_celery.metas import ReplicaMeta
from django_cqrs_celery.mixins import RawReplicaMixin, ReplicaMixin


class Publisher(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=50)


class Author(ReplicaMixin):
    """Takes a nested representation apart; its hooks may change what they are given."""

    CQRS_ID = "parity.author"
    CQRS_CUSTOM_SERIALIZATION = True

    id = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=50)
    publisher = models.ForeignKey(Publisher, null=True, on_delete=models.CASCADE)

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None):
        publisher, books = cls._take_apart(mapped_data)
        author = cls.objects.create(publisher=publisher, **mapped_data)
        author._write_books(books)
        return author

    def cqrs_update(self, sync, mapped_data, previous_data=None):
        self.publisher, books = self._take_apart(mapped_data)
        for name, value in mapped_data.items():
            setattr(self, name, value)
        self.save()
        self._write_books(books)
        return self

    @staticmethod
    def _take_apart(mapped_data):
        publisher, books = mapped_data.pop("publisher"), mapped_data.pop("books")
        if publisher is not None:
            publisher, _ = Publisher.objects.update_or_create(id=publisher.pop("id"), defaults=publisher)
        return publisher, books

    def _write_books(self, books):
        self.books.all().delete()
        Book.objects.bulk_create(Book(author=self, **book) for book in books)


class Book(models.Model):
    id = models.IntegerField(primary_key=True)
    title = models.CharField(max_length=50)
    author = models.ForeignKey(Author, related_name="books", on_delete=models.CASCADE)


class Person(ReplicaMixin):
    CQRS_ID = "parity.person"

    id = models.IntegerField(primary_key=True)
    full_name = models.CharField(max_length=100)


class Account(ReplicaMixin):
    """Every hook of a replica; ``calls`` has what they were given. A field of the master that it lacks is dropped."""

    CQRS_ID = "parity.account"
    CQRS_META = True
    CQRS_SELECT_FOR_UPDATE = True
    CQRS_MAPPING = {"id": "number", "name": "title", "status": "state", "owner": "owner_id"}

    number = models.IntegerField(primary_key=True)
    title = models.CharField(max_length=50)
    state = models.CharField(max_length=10, null=True)
    owner_id = models.IntegerField(null=True)

    calls: list[tuple] = []
    fails_with: list[Exception] = []

    @classmethod
    def cqrs_save(cls, master_data, previous_data=None, sync=False, meta=None):
        cls.calls.append(("cqrs_save", dict(master_data), previous_data, sync, meta))
        if cls.fails_with:
            raise cls.fails_with[0]
        return super().cqrs_save(master_data, previous_data=previous_data, sync=sync, meta=meta)

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        cls.calls.append(("cqrs_create", sync, dict(mapped_data), previous_data, meta))
        return super().cqrs_create(sync, mapped_data, previous_data=previous_data, meta=meta)

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        self.calls.append(("cqrs_update", sync, dict(mapped_data), previous_data, meta))
        return super().cqrs_update(sync, mapped_data, previous_data=previous_data, meta=meta)

    @classmethod
    def cqrs_delete(cls, master_data, meta=None):
        cls.calls.append(("cqrs_delete", dict(master_data), meta))
        return super().cqrs_delete(master_data, meta=meta)

    @staticmethod
    def should_retry_cqrs(current_retry, exception=None):
        Account.calls.append(("should_retry_cqrs", current_retry, exception))
        return current_retry < 1

    @staticmethod
    def get_cqrs_retry_delay(current_retry):
        Account.calls.append(("get_cqrs_retry_delay", current_retry))
        return 7


@ReplicaMeta.register
class Parcel(RawReplicaMixin):
    """No table at all; it keeps what it was given. Its hooks have the fewest arguments that django-cqrs allows."""

    CQRS_ID = "parity.parcel"

    calls: list[tuple] = []

    @classmethod
    def cqrs_save(cls, master_data, previous_data=None, **kwargs):
        cls.calls.append(("cqrs_save", master_data, previous_data, kwargs))
        return True

    @classmethod
    def cqrs_delete(cls, master_data, **kwargs):
        cls.calls.append(("cqrs_delete", master_data, kwargs))
        return True


class Category(MPTTModel, ReplicaMixin):
    """A tree of its own, kept by django-mptt on this side."""

    CQRS_ID = "parity.category"

    id = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=50)
    parent = TreeForeignKey("self", null=True, on_delete=models.CASCADE, related_name="children")


class Named(ReplicaMixin):
    CQRS_ID = None

    name = models.CharField(max_length=50)

    class Meta:
        abstract = True


class Vehicle(Named):
    CQRS_ID = "parity.vehicle"

    id = models.IntegerField(primary_key=True)


class Car(Named):
    CQRS_ID = "parity.car"
    CQRS_MAPPING = {"vehicle_ptr": "id", "name": "name", "doors": "doors"}

    id = models.IntegerField(primary_key=True)
    doors = models.IntegerField()


class Label(ReplicaMixin):
    CQRS_ID = "parity.label"

    id = models.IntegerField(primary_key=True)
    text = models.CharField(max_length=50)
    content_type = models.IntegerField()
    object_id = models.PositiveIntegerField()


class Quiet(ReplicaMixin):
    """Written by no hook of its own: ``CQRS_NO_DB_OPERATIONS`` says so although there is a table."""

    CQRS_ID = "parity.quiet"

    id = models.IntegerField(primary_key=True)
    name = models.CharField(max_length=50)
