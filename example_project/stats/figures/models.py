from django.db import models

from django_cqrs_celery.mixins import ReplicaMixin


class CountryFigures(ReplicaMixin):
    CQRS_ID = "country"
    CQRS_MAPPING = {"code": "iso", "name": "title", "population": "inhabitants", "area_km2": "area"}

    iso = models.CharField(max_length=2, primary_key=True)
    title = models.CharField(max_length=100)
    inhabitants = models.BigIntegerField()
    area = models.DecimalField(max_digits=12, decimal_places=3)

    class Meta:
        verbose_name_plural = "country figures"

    def __str__(self):
        return self.title


class CityFigures(ReplicaMixin):
    CQRS_ID = "city"
    CQRS_MAPPING = {"id": "geoname_id", "name": "title", "country": "country_iso", "population": "inhabitants"}

    geoname_id = models.BigIntegerField(primary_key=True)
    title = models.CharField(max_length=200)
    #: The code alone: figures of a city are kept whether or not those of its country are here.
    country_iso = models.CharField(max_length=2, db_index=True)
    inhabitants = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "city figures"

    def __str__(self):
        return self.title
