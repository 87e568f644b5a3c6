"""Whole copies of all models of the master."""

from django.db import models

from django_cqrs_celery.mixins import ReplicaMixin


class Country(ReplicaMixin):
    CQRS_ID = "country"

    iso = models.CharField(max_length=8, primary_key=True)
    name = models.CharField(max_length=100)
    population = models.BigIntegerField(default=0)


class City(ReplicaMixin):
    CQRS_ID = "city"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=100)
    country = models.ForeignKey(Country, on_delete=models.CASCADE)
    population = models.IntegerField(default=0)
    latitude = models.DecimalField(max_digits=9, decimal_places=6, null=True)
    founded = models.DateField(null=True)


class Event(ReplicaMixin):
    CQRS_ID = "event"

    code = models.UUIDField(primary_key=True)
    title = models.CharField(max_length=100)
    number = models.IntegerField(default=0)
    happened = models.DateTimeField(null=True)
    lasted = models.DurationField(null=True)
    details = models.JSONField(default=dict)
    raw = models.BinaryField(default=b"")
