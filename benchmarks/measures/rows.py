"""Rows of the master models, as every measure makes them."""

from __future__ import annotations

import decimal
from typing import Any


def people(model: Any, count: int) -> list[Any]:
    """Unsaved instances."""
    return [
        model(
            name=f"person {i}", email=f"person{i}@example.com", balance=decimal.Decimal(i) / 100, note="n" * 80,
        )
        for i in range(count)
    ]  # fmt: skip
