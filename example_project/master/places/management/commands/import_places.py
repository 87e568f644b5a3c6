"""``import_places``: fill the master through the ORM."""

from __future__ import annotations

from itertools import islice
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from example_project import geonames
from example_project.master.places.models import City, Country


class Command(BaseCommand):
    help = "Imports countries and cities."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--cities", type=int, default=None, help="Only the most populous ones.")
        parser.add_argument("--chunk", type=int, default=500, help="Cities in one transaction (500).")

    def handle(self, *args: Any, cities: int | None, chunk: int, **options: Any) -> None:
        with transaction.atomic():
            for values in geonames.countries():
                Country(**values).save(force_insert=True)
        found = geonames.cities(cities)
        count = 0
        while part := [City(**values) for values in islice(found, chunk)]:
            City.cqrs.bulk_create(part)
            count += len(part)
        self.stdout.write(f"{Country.objects.count()} countries and {count} cities imported.")
