"""``change_places``: everything that can happen to a row, done to some rows."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction
from django.db.models import F, Model

from example_project.master.places.models import City, Country

SAVED = 500
DELETED = 400
CREATED_AGAIN = 250


class Command(BaseCommand):
    help = "Saves, updates, deletes and creates again; prints how many rows of each as JSON."

    def handle(self, *args: Any, **options: Any) -> None:
        self.done: dict[str, int] = {}
        self._save()
        self._update_in_bulk()
        self._delete_and_create_again()
        self._delete_countries()
        self._roll_back()
        self.stdout.write(json.dumps(self.done))

    def _count(self, what: str, number: int) -> None:
        self.done[what] = self.done.get(what, 0) + number

    def _save(self) -> None:
        """Save cities one by one, each in a transaction of its own; some twice in one transaction."""
        for position, city in enumerate(City.objects.order_by("-population")[:SAVED]):
            with transaction.atomic():
                city.population += 1
                city.save()
                if position % 5 == 0:
                    city.alternate_names = [*city.alternate_names, f"{city.name} ✓"]
                    city.save()
            self._count("updated", 1)

    def _update_in_bulk(self) -> None:
        cities = City.objects.filter(country="IN")
        self._count("updated", City.cqrs.bulk_update(cities, population=F("population") + 1000))

    def _delete_and_create_again(self) -> None:
        """Delete cities by a queryset, then bring most of them back under their primary keys."""
        small = list(City.objects.order_by("population", "pk")[:DELETED])
        City.objects.filter(pk__in=[city.pk for city in small]).delete()
        self._count("deleted", len(small))
        with transaction.atomic():
            for city in small[:CREATED_AGAIN]:
                self._create_again(city, name=f"New {city.name}")

    def _delete_countries(self) -> None:
        """Delete two countries, and by the cascade their cities; bring one of them back, with its cities."""
        for code in ("IS", "LU"):
            country = Country.objects.get(pk=code)
            cities = list(country.city_set.all())
            Country.objects.get(pk=code).delete()
            self._count("deleted", 1 + len(cities))
            if code == "LU":
                self._create_again(country)
                for city in cities:
                    self._create_again(city)

    def _create_again(self, row: Model, **changes: Any) -> None:
        own = {f.attname: getattr(row, f.attname) for f in row._meta.concrete_fields if not f.name.startswith("cqrs_")}
        type(row)(**own | changes).save(force_insert=True)
        self._count("created again", 1)

    def _roll_back(self) -> None:
        """Changes that no replica may ever see."""
        cities = City.objects.order_by("-population")[:20]
        with transaction.atomic():
            for city in cities:
                city.name = "rolled back"
                city.save()
                self._count("rolled back", 1)
            transaction.set_rollback(True)
