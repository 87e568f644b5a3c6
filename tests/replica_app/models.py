"""Replica models of the test suite; each copies a model of ``tests.master_app``."""

from __future__ import annotations

from django.db import models

from django_cqrs_celery.mixins import ReplicaMixin


class Author(ReplicaMixin):
    CQRS_ID = "author"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=100)
    email = models.CharField(max_length=100, null=True, unique=True)
    born = models.DateField(null=True)
    rating = models.IntegerField(default=0)


class Book(ReplicaMixin):
    CQRS_ID = "book"

    id = models.BigIntegerField(primary_key=True)
    title = models.CharField(max_length=100)
    author = models.ForeignKey(Author, on_delete=models.CASCADE)
    price = models.DecimalField(max_digits=12, decimal_places=2, default=0)


class Node(ReplicaMixin):
    CQRS_ID = "node"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE)


class Ticket(ReplicaMixin):
    """Written through hooks: ``fail_with`` and ``calls`` let tests look in."""

    CQRS_ID = "ticket"

    code = models.UUIDField(primary_key=True)
    title = models.CharField(max_length=50)

    calls: list[str] = []
    fail_with: Exception | None = None

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        cls.calls.append("create")
        if cls.fail_with is not None:
            raise cls.fail_with
        return super().cqrs_create(sync, mapped_data, previous_data=previous_data, meta=meta)

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        type(self).calls.append("update")
        if type(self).fail_with is not None:
            raise type(self).fail_with
        return super().cqrs_update(sync, mapped_data, previous_data=previous_data, meta=meta)


class Country(ReplicaMixin):
    CQRS_ID = "country"
    CQRS_MAPPING = {"iso": "code", "name": "label", "population": "people"}

    code = models.CharField(max_length=8, primary_key=True)
    label = models.CharField(max_length=100)
    people = models.BigIntegerField()
    seen = models.IntegerField(default=7)


class Seat(ReplicaMixin):
    """A unique value that rows swap; it may not be NULL."""

    CQRS_ID = "seat"

    id = models.BigIntegerField(primary_key=True)
    code = models.CharField(max_length=20, unique=True)
    row = models.IntegerField(default=0)


class Team(ReplicaMixin):
    """Half of a circle of foreign keys."""

    CQRS_ID = "team"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=20)
    captain = models.ForeignKey("Member", on_delete=models.CASCADE, related_name="+")


class Member(ReplicaMixin):
    """The other half."""

    CQRS_ID = "member"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=20)
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+")


class Note(ReplicaMixin):
    """A child that outlives its parent."""

    CQRS_ID = "note"

    id = models.BigIntegerField(primary_key=True)
    text = models.CharField(max_length=50)
    author = models.ForeignKey(Author, null=True, on_delete=models.SET_NULL)


class Topic(ReplicaMixin):
    CQRS_ID = "topic"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)


class Article(ReplicaMixin):
    CQRS_ID = "article"

    id = models.BigIntegerField(primary_key=True)
    title = models.CharField(max_length=50)
    topics = models.ManyToManyField(Topic, related_name="articles")
    countries = models.ManyToManyField(Country)
    tickets = models.ManyToManyField(Ticket, related_name="+")
    similar = models.ManyToManyField("self")
    sequels = models.ManyToManyField("self", symmetrical=False, related_name="prequels")


class Draft(ReplicaMixin):
    """Its field has another name here."""

    CQRS_ID = "draft"
    CQRS_MAPPING = {"id": "id", "topics": "subjects"}

    id = models.UUIDField(primary_key=True)
    subjects = models.ManyToManyField(Topic, related_name="+")


class Shelf(ReplicaMixin):
    CQRS_ID = "shelf"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)


class Stock(ReplicaMixin):
    CQRS_ID = "stock"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)
    amount = models.IntegerField()
    shelf = models.BigIntegerField(null=True)


class Depot(ReplicaMixin):
    CQRS_ID = "depot"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)
    shelves = models.ManyToManyField(Shelf)
    stocks = models.ManyToManyField(Stock)


class Guarded(ReplicaMixin):
    CQRS_ID = "guarded"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)


class Machine(ReplicaMixin):
    CQRS_ID = "machine"
    CQRS_MAPPING = {"asset_ptr": "id", "label": "label", "power": "power", "shelves": "shelves"}

    id = models.BigIntegerField(primary_key=True)
    label = models.CharField(max_length=50)
    power = models.IntegerField()
    shelves = models.ManyToManyField(Shelf)


class Place(ReplicaMixin):
    CQRS_ID = "place"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)


class Cafe(ReplicaMixin):
    CQRS_ID = "cafe"
    CQRS_MAPPING = {"place_ptr": "id", "name": "name", "city": "city", "seats": "seats", "shelves": "shelves"}

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)
    city = models.CharField(max_length=50)
    seats = models.IntegerField()
    shelves = models.ManyToManyField(Shelf)


class Bistro(ReplicaMixin):
    CQRS_ID = "bistro"
    CQRS_MAPPING = {"cafe_ptr": "id", "name": "name", "city": "city", "seats": "seats", "chef": "chef"}

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)
    city = models.CharField(max_length=50)
    seats = models.IntegerField()
    chef = models.CharField(max_length=50)


class Hall(ReplicaMixin):
    CQRS_ID = "hall"
    CQRS_MAPPING = {"venue_ptr": "id", "name": "name", "rows": "rows"}

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=50)
    rows = models.IntegerField()
