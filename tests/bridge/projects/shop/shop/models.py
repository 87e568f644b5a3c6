"""What the shop owns; written for django-cqrs."""

import uuid

from dj_cqrs.constants import ALL_BASIC_FIELDS
from dj_cqrs.mixins import MasterMixin
from django.db import models


class Country(MasterMixin):
    CQRS_ID = "country"

    iso = models.CharField(max_length=8, primary_key=True)
    name = models.CharField(max_length=100)
    population = models.BigIntegerField(default=0)


class City(MasterMixin):
    CQRS_ID = "city"
    CQRS_FIELDS = ALL_BASIC_FIELDS
    CQRS_TRACKED_FIELDS = ["name", "country"]

    name = models.CharField(max_length=100)
    country = models.ForeignKey(Country, on_delete=models.CASCADE)
    code = models.UUIDField(default=uuid.uuid4)
    latitude = models.DecimalField(max_digits=9, decimal_places=6, null=True)
    founded = models.DateField(null=True)
    visited = models.DateTimeField(null=True)
    is_capital = models.BooleanField(default=False)
    details = models.JSONField(default=dict)

    def is_sync_instance(self):
        return not self.name.startswith("draft")


class Offer(MasterMixin):
    CQRS_ID = "offer"
    CQRS_SERIALIZER = "shop.serializers.OfferSerializer"

    city = models.ForeignKey(City, on_delete=models.CASCADE)
    title = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=8, decimal_places=2)

    @classmethod
    def relate_cqrs_serialization(cls, queryset):
        return queryset.select_related("city")

    def get_cqrs_meta(self, **kwargs):
        return {"by": "shop", "signal": str(kwargs["signal_type"])}

    def get_custom_cqrs_delete_data(self):
        return {"title": self.title}
