"""Writes that nobody captures: what digests and repairs are there for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.models import QuerySet

from django_cqrs_celery import triggers_upkeep


@contextmanager
def writes(model: Any) -> Iterator[None]:
    """While this lasts, the table of a model has no triggers, as where somebody has switched them off."""
    concrete = model._meta.concrete_model
    found = [each for each in triggers_upkeep.sets(model.objects.db) if each.model is concrete]
    for each in found:
        each.uninstall()
    try:
        yield
    finally:
        for each in found:
            each.install()


def update(model: Any, values: dict[str, Any], **filters: Any) -> None:
    """Update rows past the capture of the ORM, and of triggers."""
    with writes(model):
        QuerySet(model, using=model.objects.db).filter(**filters).update(**values)


def delete(model: Any, **filters: Any) -> None:
    """Delete rows past the capture of the ORM, and of triggers."""
    with writes(model):
        QuerySet(model, using=model.objects.db).filter(**filters)._raw_delete(model.objects.db)
