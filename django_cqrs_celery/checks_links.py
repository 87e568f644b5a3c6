"""What can be wrong with a many-to-many field that replicates, on either side; ``checks`` reports it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.core.checks import CheckMessage
from django.db import models, router

from django_cqrs_celery import checks_models as common
from django_cqrs_celery import links


def problems(model: Any, fields: Iterable[Any], hint: str) -> Iterator[CheckMessage]:
    """Links of a model that cannot be replicated; ``hint`` says how to leave a field out."""
    for field in fields:
        through: Any = links.through(field)
        if not links.is_resolved(field):
            continue
        where = f"{common.label(model)}.{field.name}"
        home, elsewhere = router.db_for_write(model), router.db_for_write(through)
        if elsewhere != home:
            yield common.error(
                "E037",
                f"The links of {where} are written to the database '{elsewhere}', the rows of the model to '{home}';"
                " both have to be written in one transaction.",
                f"Let DATABASE_ROUTERS send {through._meta.label} to '{home}', or {hint}",
                model,
            )
        indirect = [key.name for key in links.ends(field) if not key.target_field.primary_key]
        if indirect:
            yield common.error(
                "E038",
                f"The links of {where} do not refer to primary keys: {through._meta.label}.{indirect[0]} has a"
                " to_field.",
                f"Delete to_field, or {hint}",
                model,
            )
        yield from common.primary_key(field.related_model)
        yield from common.travel(field.related_model, [field.related_model._meta.pk])


def needs_more(model: Any, fields: Iterable[Any]) -> Iterator[CheckMessage]:
    """Links that a replica could not write: their model has required columns that do not travel."""
    for field in fields:
        through: Any = links.through(field)
        if not links.is_resolved(field):
            continue
        ends = links.ends(field)
        required = [
            column.name
            for column in through._meta.concrete_fields
            if column not in ends
            and not (column.null or column.has_default() or column.has_db_default() or column.primary_key)
            and not isinstance(column, models.GeneratedField)
            and not getattr(column, "auto_now", False)
            and not getattr(column, "auto_now_add", False)
        ]
        if required:
            yield common.error(
                "E047",
                f"The links of {common.label(model)}.{field.name} cannot be written: {through._meta.label} requires"
                f" {common.listed(required)}, and only the two ends of a link travel.",
                "Give these columns a default, drop `through` on the replica, or replicate the through model itself, as"
                " a master with a replica of its own, and leave this field out.",
                model,
            )
