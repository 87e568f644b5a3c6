"""What can be wrong with a master model; ``checks`` reports it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.db import models
from django.utils.module_loading import import_string

from django_cqrs_celery import checks_links, links
from django_cqrs_celery import checks_models as common
from django_cqrs_celery.constants import ALL_BASIC_FIELDS, REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.fields import RevisionField
from django_cqrs_celery.managers import MasterQuerySet
from django_cqrs_celery.mixins import RawMasterMixin

_FLAGS = ("CQRS_PRODUCE",)


def problems(model: Any) -> Iterator[CheckMessage]:
    """Everything that is wrong with one master model."""
    yield from common.cqrs_id_problems(model)
    yield from common.flags(model, _FLAGS)
    yield from common.primary_key(model)
    yield from _master_columns(model)
    yield from _names(model, "CQRS_FIELDS", model._meta.concrete_fields)
    yield from _names(model, "CQRS_TRACKED_FIELDS", model._meta.concrete_fields)
    yield from _names(model, "CQRS_M2M_FIELDS", model._meta.many_to_many, "many-to-many field")
    yield from checks_links.problems(model, links.replicated(model), "leave it out of CQRS_M2M_FIELDS.")
    yield from _serializer(model)
    yield from _managers(model)
    if not isinstance(model._meta.pk, models.CompositePrimaryKey):
        yield from _replicated_key(model)
        yield from common.travel(model, _sent(model))


def _master_columns(model: Any) -> Iterator[CheckMessage]:
    if not issubclass(model, RawMasterMixin):
        wrong = "does not inherit MasterMixin or RawMasterMixin"
    elif not isinstance(common.fields_of(model).get(REVISION_FIELD), RevisionField):
        wrong = f"has no {REVISION_FIELD} column that its saves raise"
    elif UPDATED_FIELD not in common.fields_of(model):
        wrong = f"has no {UPDATED_FIELD} column"
    else:
        return
    yield common.error(
        "E026",
        f"The master model {common.label(model)} {wrong}.",
        f"Inherit MasterMixin (or RawMasterMixin) and leave its {REVISION_FIELD} and {UPDATED_FIELD} as they are.",
        model,
    )


def _managers(model: Any) -> Iterator[CheckMessage]:
    """Managers whose bulk writes nobody would hear of."""
    for manager in model._meta.managers:
        if manager.auto_created or isinstance(manager.get_queryset(), MasterQuerySet):
            continue
        yield common.warning(
            "W036",
            f"Bulk writes of {common.label(model)}.{manager.name} do not replicate: update(), bulk_create() and so on.",
            f"Make the manager's querysets replicate: {manager.name} ="
            f" {type(manager).__name__}.from_queryset(MasterQuerySet)(), or derive its own QuerySet from"
            " django_cqrs_celery.managers.MasterQuerySet.",
            model,
        )


def _names(model: Any, attribute: str, fields: Iterable[Any], kind: str = "column") -> Iterator[CheckMessage]:
    names = getattr(model, attribute, ALL_BASIC_FIELDS)
    names_nothing = attribute != "CQRS_FIELDS" and names is None
    if names_nothing or (isinstance(names, str) and names == ALL_BASIC_FIELDS):
        return
    where = f"{common.label(model)}.{attribute}"
    is_list = isinstance(names, (Sequence, set, frozenset)) and not isinstance(names, str)
    if not is_list or not all(common.is_text(name) for name in names):
        yield common.error(
            "E030",
            f"{where} is {names!r}, expected a list of field names or '{ALL_BASIC_FIELDS}'.",
            f"Write a list, also for one name, or '{ALL_BASIC_FIELDS}' for every field.",
            model,
        )
        return
    known = {field.name for field in fields}
    if attribute == "CQRS_TRACKED_FIELDS":
        known |= {field.attname for field in fields}
    unknown = [name for name in names if name not in known]
    linked = sorted(set(unknown) & {field.name for field in model._meta.many_to_many})
    elsewhere = f" Many-to-many fields belong in CQRS_M2M_FIELDS: {common.listed(linked)}." if linked else ""
    if unknown:
        yield common.error(
            "E031",
            f"{where} names what is no {kind} of the model: {common.listed(unknown)}.",
            f"Only these can be listed: {common.listed(sorted(known)) or 'none'}.{elsewhere}",
            model,
        )
    double = common.twice(list(names))
    if double:
        yield common.error("E032", f"{where} names twice: {common.listed(double)}.", "Name each field once.", model)


def _chosen_names(model: Any) -> Sequence[str] | None:
    """The names in ``CQRS_FIELDS``; None where it means every field, or where it is of a wrong type."""
    names = getattr(model, "CQRS_FIELDS", ALL_BASIC_FIELDS)
    return None if names is None or isinstance(names, str) or not hasattr(names, "__contains__") else names


def _replicated_key(model: Any) -> Iterator[CheckMessage]:
    names = _chosen_names(model)
    if names is not None and not getattr(model, "CQRS_SERIALIZER", None) and model._meta.pk.name not in names:
        yield common.error(
            "E033",
            f"{common.label(model)}.CQRS_FIELDS lacks the primary key, {model._meta.pk.name}.",
            f"Add '{model._meta.pk.name}' to CQRS_FIELDS.",
            model,
        )


def _sent(model: Any) -> list[Any]:
    """Fields whose values travel: replicated or tracked ones, and always the primary key."""
    names = _chosen_names(model)
    tracked = getattr(model, "CQRS_TRACKED_FIELDS", None) or ()
    by_fields = not getattr(model, "CQRS_SERIALIZER", None)
    return [
        field
        for field in model._meta.concrete_fields
        if field.primary_key
        or (by_fields and (names is None or field.name in names))
        or tracked == ALL_BASIC_FIELDS
        or (isinstance(tracked, (list, tuple)) and (field.name in tracked or field.attname in tracked))
    ]


def _serializer(model: Any) -> Iterator[CheckMessage]:
    path = getattr(model, "CQRS_SERIALIZER", None)
    if path is None:
        return
    if getattr(model, "CQRS_FIELDS", ALL_BASIC_FIELDS) != ALL_BASIC_FIELDS:
        yield common.error(
            "E034",
            f"{common.label(model)} has both CQRS_FIELDS and CQRS_SERIALIZER.",
            "Delete one of them: with a serializer, what it returns is what travels.",
            model,
        )
    wrong = None
    if not isinstance(path, str):
        wrong = f"is {path!r}, expected a dotted path"
    else:
        try:
            if not callable(import_string(path)):
                wrong = f"{path!r} is not a class"
        except Exception as error:  # the module that it names may raise anything
            wrong = f"{path!r} cannot be imported: {type(error).__name__}: {error}"
    if wrong:
        yield common.error(
            "E035",
            f"{common.label(model)}.CQRS_SERIALIZER {wrong}.",
            "Write the dotted path of a class: 'package.module.Class'; Class(instance).data is what travels.",
            model,
        )
