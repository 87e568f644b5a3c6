from django.db import models

from django_cqrs_celery.mixins import ReplicaMixin


class Country(ReplicaMixin):
    CQRS_ID = "country"

    code = models.CharField(max_length=2, primary_key=True)
    name = models.CharField(max_length=100)
    capital = models.CharField(max_length=100, blank=True)
    continent = models.CharField(max_length=2)
    area_km2 = models.DecimalField(max_digits=12, decimal_places=3)
    population = models.BigIntegerField()
    currency = models.CharField(max_length=3, blank=True)
    languages = models.JSONField(default=list)
    neighbours = models.JSONField(default=list)

    class Meta:
        verbose_name_plural = "countries"

    def __str__(self):
        return self.name


class City(ReplicaMixin):
    CQRS_ID = "city"

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=200)
    country = models.ForeignKey(Country, on_delete=models.CASCADE)
    latitude = models.DecimalField(max_digits=8, decimal_places=5)
    longitude = models.DecimalField(max_digits=8, decimal_places=5)
    population = models.BigIntegerField()
    timezone = models.CharField(max_length=64)
    alternate_names = models.JSONField(default=list)

    class Meta:
        verbose_name_plural = "cities"

    def __str__(self):
        return self.name
