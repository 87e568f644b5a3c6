"""What this project never does, done on purpose: with it the chaos tests must find losses."""

from __future__ import annotations

from typing import Any


def acknowledge_at_receipt() -> None:
    """Acknowledge each message when it comes instead of after the commit."""
    from django_cqrs_celery import batching

    add = batching.Gatherer.add

    def too_soon(self: Any, held: Any) -> None:
        held.ack()
        held.tag, held.ack, held.reject = None, lambda: None, lambda: None
        add(self, held)

    batching.Gatherer.add = too_soon  # type: ignore[method-assign]
