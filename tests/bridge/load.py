"""Mixed changes on the shop, the same ones whichever of the two packages the shop runs."""

from __future__ import annotations

import datetime
import os
import random
import uuid
from decimal import Decimal
from typing import Any

from django.db.models import Q

UTC = datetime.timezone.utc


class Load:
    """Makes changes by a seed; counts rows that were written, one by one or by a bulk call.

    It writes to the rows of its seed, and to those of ``others`` whose load has ended: django-cqrs publishes wrong
    values of a row that two processes save at once.
    """

    def __init__(self, seed: int, others: tuple[int, ...] = ()) -> None:
        self.random = random.Random(seed)
        self.seeds = [seed, *others]
        self.changes = 0
        #: Codes of countries, few, so that they are deleted and used again.
        self.codes = [f"{seed}-{number}" for number in range(20)]

    def run(self, count: int) -> int:
        """Make about ``count`` changes; returns how many there were."""
        self._start()
        while self.changes < count:
            self._one()
        return self.changes

    def run_until(self, path: str, at_least: int = 60) -> int:
        """Make changes until there is a file, ``at_least`` so many on a slow machine."""
        self._start()
        while self.changes < at_least or not os.path.exists(path):
            self._one()
        return self.changes

    def _start(self) -> None:
        from shop import models

        self.models: Any = models
        for code in self.codes[:10]:
            self._country(code)
        for _ in range(5):
            self._add_city()
            self._add_offer()

    def _one(self) -> None:
        kinds = {
            self._add_city: 30, self._change_city: 40, self._drop_city: 8, self._change_country: 8,
            self._recreate_country: 4, self._change_many: 1, self._add_many: 1, self._offer: 6, self._together: 2,
        }  # fmt: skip
        self.random.choices(list(kinds), list(kinds.values()))[0]()

    def _country(self, code: str) -> Any:
        self.changes += 1
        people = self.random.randrange(10**9)
        return self.models.Country.objects.create(iso=code, name=f"Land {code}", population=people)

    def _any(self, model: Any) -> Any:
        rows = self._mine(model)
        found = list(rows.order_by("pk").values_list("pk", flat=True))[-400:]
        return model.objects.get(pk=self.random.choice(found)) if found else None

    def _mine(self, model: Any) -> Any:
        path = {"Country": "iso", "City": "country__iso", "Offer": "city__country__iso"}[model.__name__]
        mine = Q()
        for seed in self.seeds:
            mine |= Q(**{f"{path}__startswith": f"{seed}-"})
        return model.objects.filter(mine)

    def _values(self) -> dict[str, Any]:
        chance = self.random
        return {
            "name": chance.choice(["Ørsted", "東京", "Köln", "draft Ulm", "Lima"]) + f" {chance.randrange(10**6)}",
            "code": uuid.UUID(int=chance.getrandbits(128)),
            "latitude": chance.choice([None, Decimal(chance.randrange(-90_000_000, 90_000_000)) / 1_000_000]),
            "founded": chance.choice([None, datetime.date(1, 1, 1) + datetime.timedelta(chance.randrange(700_000))]),
            "visited": chance.choice([None, datetime.datetime(2030, 1, 1, tzinfo=UTC) + self._seconds()]),
            "is_capital": chance.random() < 0.5,
            "details": chance.choice([{}, {"a": [1, None, "ü"], "b": {"c": 1.5}}, [], "text"]),
        }

    def _seconds(self) -> datetime.timedelta:
        return datetime.timedelta(microseconds=self.random.randrange(10**12))

    def _city(self) -> Any:
        return self.models.City(country=self._any(self.models.Country), **self._values())

    def _add_city(self) -> None:
        self._city().save()
        self.changes += 1

    def _change_city(self) -> None:
        city = self._any(self.models.City)
        if city is None or city.name.startswith("draft"):
            return
        values = self._values()
        values["name"] = values["name"].removeprefix("draft ")
        for name in self.random.sample(sorted(values), 3):
            setattr(city, name, values[name])
        city.save()
        self.changes += 1

    def _drop_city(self) -> None:
        city = self._any(self.models.City)
        if city is not None:
            city.delete()
            self.changes += 1

    def _change_country(self) -> None:
        country = self._any(self.models.Country)
        country.population += 1
        country.save()
        self.changes += 1

    def _recreate_country(self) -> None:
        """Delete a country with its cities; its code, or another free one, is used again."""
        if self._mine(self.models.Country).count() > 5:
            country = self._any(self.models.Country)
            if country.city_set.count() < 30:
                country.delete()
                self.changes += 1
        free = sorted(set(self.codes) - set(self.models.Country.objects.values_list("pk", flat=True)))
        if free:
            self._country(self.random.choice(free))

    def _change_many(self) -> None:
        rows = self.models.City.objects.filter(country=self._any(self.models.Country)).exclude(name__startswith="draft")
        pks = list(rows.values_list("pk", flat=True)[:20])
        if pks:
            rows = self.models.City.objects.filter(pk__in=pks)
            self.changes += self.models.City.cqrs.bulk_update(rows, is_capital=self.random.random() < 0.5) or 0

    def _add_many(self) -> None:
        cities = [self._city() for _ in range(10)]
        self.models.City.cqrs.bulk_create(cities)
        self.changes += len(cities)

    def _offer(self) -> None:
        offer = self._any(self.models.Offer)
        if offer is None or self.random.random() < 0.4:
            self._add_offer()
        elif self.random.random() < 0.3:
            offer.delete()
        else:
            offer.price += 1
            offer.save()
        self.changes += 1

    def _add_offer(self) -> None:
        city = self._any(self.models.City)
        if city is not None:
            price = Decimal(self.random.randrange(10**6)) / 100
            self.models.Offer.objects.create(city=city, title=f"T{self.random.randrange(10**6)}", price=price)

    def _together(self) -> None:
        from django.db import transaction

        with transaction.atomic():
            city = self._city()
            city.name = city.name.removeprefix("draft ")
            city.save()
            city.is_capital = not city.is_capital
            city.save()
            self._change_country()
        self.changes += 1
