"""Copies of the shop's rows; written for django-cqrs."""

from dj_cqrs.mixins import ReplicaMixin
from django.db import models


class Country(ReplicaMixin):
    CQRS_ID = "country"

    iso = models.CharField(max_length=8, primary_key=True)
    name = models.CharField(max_length=100)
    population = models.BigIntegerField(default=0)


class Place(ReplicaMixin):
    CQRS_ID = "city"
    CQRS_MAPPING = {
        "id": "id",
        "name": "title",
        "country": "country_iso",
        "code": "code",
        "latitude": "latitude",
        "founded": "founded",
        "visited": "visited",
        "is_capital": "is_capital",
        "details": "details",
    }

    id = models.BigIntegerField(primary_key=True)
    title = models.CharField(max_length=100)
    country_iso = models.CharField(max_length=8)
    code = models.UUIDField()
    latitude = models.DecimalField(max_digits=9, decimal_places=6, null=True)
    founded = models.DateField(null=True)
    visited = models.DateTimeField(null=True)
    is_capital = models.BooleanField(default=False)
    details = models.JSONField(default=dict)


class Offer(ReplicaMixin):
    CQRS_ID = "offer"
    CQRS_CUSTOM_SERIALIZATION = True
    CQRS_META = True

    id = models.BigIntegerField(primary_key=True)
    label = models.CharField(max_length=210)
    cents = models.IntegerField()
    source = models.CharField(max_length=20)

    @staticmethod
    def values_of(data, meta):
        return {
            "label": f"{data['title']} in {data['city_name']}",
            "cents": data["cents"],
            "source": (meta or {}).get("by", ""),
            "cqrs_revision": data["cqrs_revision"],
            "cqrs_updated": data["cqrs_updated"],
        }

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        return cls.objects.create(id=mapped_data["id"], **cls.values_of(mapped_data, meta))

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        for name, value in self.values_of(mapped_data, meta).items():
            setattr(self, name, value)
        self.save()
        return self
