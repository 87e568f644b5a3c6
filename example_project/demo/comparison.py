"""Are the replicas equal to the master? Every row, field by field, as each service reads it from its own database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Rows = dict[Any, dict[str, Any]]

KEYS = {"country": "code", "city": "id"}
#: Fields that a replica keeps, in the master's words; None: all of them.
KEPT: dict[str, dict[str, set[str] | None]] = {
    "search": {"country": None, "city": None},
    "stats": {
        "country": {"code", "name", "population", "area_km2", "cqrs_revision", "cqrs_updated"},
        "city": {"id", "name", "country", "population", "cqrs_revision", "cqrs_updated"},
    },
}


@dataclass
class Difference:
    """How a replica's rows of one model differ from the master's; all lists are empty when they do not."""

    equal: int = 0
    missing: list[Any] = field(default_factory=list)
    surplus: list[Any] = field(default_factory=list)
    wrong: list[tuple[Any, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.wrong)

    def __str__(self) -> str:
        if not self:
            return "equal"
        parts = [
            f"{len(found)} {what} (first: {found[0]})"
            for what, found in (("missing", self.missing), ("too many", self.surplus), ("wrong", self.wrong))
            if found
        ]
        return ", ".join(parts)


def by_key(cqrs_id: str, rows: Iterable[dict[str, Any]]) -> Rows:
    """Rows by primary key."""
    return {row[KEYS[cqrs_id]]: row for row in rows}


def compare(master: Rows, replica: Rows, kept: set[str] | None) -> Difference:
    """Compare the fields that the replica keeps; it must have each of them, and no others."""
    difference = Difference(
        missing=[key for key in master if key not in replica], surplus=[key for key in replica if key not in master]
    )
    for key, row in master.items():
        copy = replica.get(key)
        if copy is None:
            continue
        expected = {name: value for name, value in row.items() if kept is None or name in kept}
        if copy == expected:
            difference.equal += 1
        else:
            names = sorted(n for n in expected.keys() | copy.keys() if expected.get(n, ...) != copy.get(n, ...))
            difference.wrong.append((key, names[0]))
    return difference
