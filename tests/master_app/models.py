"""Master models of the test suite; each has its replica in ``tests.replica_app``."""

from __future__ import annotations

import uuid

from django.db import models

from django_cqrs_celery.mixins import MasterMixin


class Author(MasterMixin):
    CQRS_ID = "author"

    name = models.CharField(max_length=100)
    email = models.CharField(max_length=100, null=True, unique=True)
    born = models.DateField(null=True)
    rating = models.IntegerField(default=0)


class Book(MasterMixin):
    """A child by foreign key, with tracked fields."""

    CQRS_ID = "book"
    CQRS_TRACKED_FIELDS = ["title", "author"]

    title = models.CharField(max_length=100)
    author = models.ForeignKey(Author, on_delete=models.CASCADE)
    price = models.DecimalField(max_digits=12, decimal_places=2, default=0)


class Node(MasterMixin):
    """A tree: a foreign key to itself."""

    CQRS_ID = "node"

    name = models.CharField(max_length=50)
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE)


class Ticket(MasterMixin):
    """A UUID primary key that is not called ``id``; its replica goes through hooks."""

    CQRS_ID = "ticket"

    code = models.UUIDField(primary_key=True, default=uuid.uuid4)
    title = models.CharField(max_length=50)


class Country(MasterMixin):
    """A string primary key, a mapped subset on the replica."""

    CQRS_ID = "country"

    iso = models.CharField(max_length=8, primary_key=True)
    name = models.CharField(max_length=100)
    population = models.BigIntegerField(default=0)
    secret = models.CharField(max_length=50, default="")


class Seat(MasterMixin):
    """A unique value that rows swap; it may not be NULL."""

    CQRS_ID = "seat"

    code = models.CharField(max_length=20, unique=True)
    row = models.IntegerField(default=0)


class Team(MasterMixin):
    """Half of a circle of foreign keys."""

    CQRS_ID = "team"

    name = models.CharField(max_length=20)
    captain = models.ForeignKey("Member", on_delete=models.CASCADE, related_name="+")


class Member(MasterMixin):
    """The other half."""

    CQRS_ID = "member"

    name = models.CharField(max_length=20)
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+")


class Note(MasterMixin):
    """A child that outlives its parent."""

    CQRS_ID = "note"

    text = models.CharField(max_length=50)
    author = models.ForeignKey(Author, null=True, on_delete=models.SET_NULL)


class Shelf(MasterMixin):
    """Captured by triggers, whatever the suite's setting is, as the three below."""

    CQRS_ID = "shelf"
    CQRS_CAPTURE = "trigger"

    name = models.CharField(max_length=50)


class Stock(MasterMixin):
    """Has a column that does not travel, and one that is tracked."""

    CQRS_ID = "stock"
    CQRS_CAPTURE = "trigger"
    CQRS_FIELDS = ("id", "name", "amount", "shelf")
    CQRS_TRACKED_FIELDS = ("amount",)

    name = models.CharField(max_length=50)
    amount = models.IntegerField(default=0, db_default=0)
    shelf = models.ForeignKey(Shelf, null=True, on_delete=models.CASCADE)
    note = models.CharField(max_length=50, default="", db_default="")


class Guarded(MasterMixin):
    """Its hooks have a say in each change."""

    CQRS_ID = "guarded"
    CQRS_CAPTURE = "trigger"

    name = models.CharField(max_length=50)

    def is_sync_instance(self):
        return not self.name.startswith("secret")

    def get_cqrs_meta(self, **kwargs):
        return {"of": self.name}

    def get_custom_cqrs_delete_data(self):
        return {"was": self.name}


class Depot(MasterMixin):
    """Links that triggers capture: in a table that Django makes, and in one with a column that does not travel."""

    CQRS_ID = "depot"
    CQRS_CAPTURE = "trigger"
    CQRS_M2M_FIELDS = "__all__"

    name = models.CharField(max_length=50, db_default="")
    shelves = models.ManyToManyField(Shelf)
    stocks = models.ManyToManyField(Stock, through="Placing")


class Placing(models.Model):
    depot = models.ForeignKey(Depot, on_delete=models.CASCADE)
    stock = models.ForeignKey(Stock, on_delete=models.CASCADE, db_constraint=False)
    place = models.IntegerField(default=0, db_default=0)


class Local(models.Model):
    """Not replicated; a plain model to compare with."""

    name = models.CharField(max_length=50)


class Topic(MasterMixin):
    """What articles are linked to; a proxy and a child must not be forgotten."""

    CQRS_ID = "topic"

    name = models.CharField(max_length=50)


class TopicProxy(Topic):
    class Meta:
        proxy = True


class Article(MasterMixin):
    """Links to whole numbers, texts and UUIDs; with a model of links of its own, and to itself, both ways."""

    CQRS_ID = "article"
    CQRS_M2M_FIELDS = "__all__"

    title = models.CharField(max_length=50)
    topics = models.ManyToManyField(Topic, related_name="articles")
    countries = models.ManyToManyField(Country, through="Mention", related_name="articles")
    tickets = models.ManyToManyField(Ticket, related_name="+")
    similar = models.ManyToManyField("self")
    sequels = models.ManyToManyField("self", symmetrical=False, related_name="prequels")


class Mention(models.Model):
    """A link with a column of its own, which does not travel."""

    article = models.ForeignKey(Article, on_delete=models.CASCADE)
    country = models.ForeignKey(Country, on_delete=models.CASCADE)
    times = models.IntegerField(default=1)


class Draft(MasterMixin):
    """Only what is chosen travels; hooks look at the links."""

    CQRS_ID = "draft"
    CQRS_M2M_FIELDS = ["topics"]

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    topics = models.ManyToManyField(Topic)
    secrets = models.ManyToManyField(Topic, related_name="+")

    def is_sync_instance(self):
        return not self.topics.filter(name="private").exists()


class Asset(models.Model):
    """Not replicated by itself."""

    label = models.CharField(max_length=50, db_default="")
    note = models.CharField(max_length=50, default="", db_default="")


class Machine(MasterMixin, Asset):
    """A row in two tables, of which its own holds the revision."""

    CQRS_ID = "machine"
    CQRS_CAPTURE = "trigger"
    CQRS_FIELDS = ("asset_ptr", "label", "power")
    CQRS_TRACKED_FIELDS = ("label", "power")
    CQRS_M2M_FIELDS = "__all__"

    power = models.IntegerField(default=0, db_default=0)
    shelves = models.ManyToManyField(Shelf)


class Place(MasterMixin):
    """A master model that others inherit; one of its columns travels with these alone."""

    CQRS_ID = "place"
    CQRS_CAPTURE = "trigger"
    CQRS_FIELDS = ("id", "name")

    name = models.CharField(max_length=50)
    city = models.CharField(max_length=50, default="", db_default="")


class PlaceProxy(Place):
    class Meta:
        proxy = True


class Cafe(Place):
    """Its table has no revision: that of the place is its own."""

    CQRS_ID = "cafe"
    CQRS_FIELDS = "__all__"
    CQRS_TRACKED_FIELDS = ("city", "seats")
    CQRS_M2M_FIELDS = "__all__"

    seats = models.IntegerField(default=0, db_default=0)
    shelves = models.ManyToManyField(Shelf)


class Bistro(Cafe):
    """The third table of a row."""

    CQRS_ID = "bistro"
    CQRS_TRACKED_FIELDS = None
    CQRS_M2M_FIELDS = None

    chef = models.CharField(max_length=50, default="", db_default="")


class Kiosk(Place):
    """No master itself: replicas know it as a place."""

    CQRS_AUTO_REGISTER = False

    stand = models.IntegerField(default=0, db_default=0)


class Venue(MasterMixin):
    """Holds the revisions of others and is not replicated itself."""

    CQRS_ID = "venue"
    CQRS_CAPTURE = "trigger"
    CQRS_PRODUCE = False

    name = models.CharField(max_length=50)


class Hall(Venue):
    CQRS_ID = "hall"
    CQRS_PRODUCE = True

    rows = models.IntegerField(default=0, db_default=0)
