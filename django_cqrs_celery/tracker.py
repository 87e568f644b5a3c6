"""Previous values of the fields that a master model tracks (``CQRS_TRACKED_FIELDS``)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from django.db import connections
from django.db.models import Field, Model
from model_utils import FieldTracker

from django_cqrs_celery.constants import ALL_BASIC_FIELDS, REVISION_FIELD, UPDATED_FIELD

#: Attribute under which a model keeps its tracker.
TRACKER_ATTRIBUTE = "cqrs_tracker"
_NOTED = "_cqrs_noted"


def tracked_fields(model: type[Model]) -> Sequence[Field]:
    """The fields that a model tracks; empty where it tracks none."""
    names = getattr(model, "CQRS_TRACKED_FIELDS", None)
    if not names:
        return ()
    fields = [f for f in model._meta.concrete_fields if f.name not in (REVISION_FIELD, UPDATED_FIELD)]
    if names == ALL_BASIC_FIELDS:
        return fields
    if isinstance(names, str) or not isinstance(names, Collection):
        return ()  # a system check says so
    return [f for f in fields if f.name in names or f.attname in names]


@cache
def _followed(model: type[Model]) -> list[Field]:
    """The fields that a model tracks, and those that the parents of a multi-table model do."""
    found = {f.name: f for base in model.__mro__ if hasattr(base, "_meta") for f in tracked_fields(base)}
    return [field for field in model._meta.concrete_fields if field.name in found]


def install(model: type[Model]) -> None:
    """Give a model that tracks fields its tracker."""
    if not getattr(model, "CQRS_TRACKED_FIELDS", None) or TRACKER_ATTRIBUTE in model.__dict__:
        return
    # The parent's saving is tracked by the parent's tracker, which asks the instance's own for its fields.
    tracker = FieldTracker(fields=[field.attname for field in _followed(model)])
    tracker.contribute_to_class(model, TRACKER_ATTRIBUTE)
    tracker.finalize_class(model)


def tracks(model: type[Model]) -> bool:
    """Whether previous values of a model's fields are known."""
    return bool(_followed(model))


def previous_values(
    instance: Model, *, created: bool | None = None, only: Collection[str] | None = None
) -> dict[str, Any]:
    """Previous Python values of changed tracked fields, by field name; None for what a new row has been given.

    A field that held an expression (``F("n") + 1``) is left out: only the database knows its previous value. ``only``:
    the names of the fields that are saved.
    """
    fields = _followed(type(instance))
    if only is not None:
        fields = [field for field in fields if field.name in only or field.attname in only]
    if not fields:
        return {}
    if instance._state.adding if created is None else created:
        return {field.name: None for field in fields if getattr(instance, field.attname) is not None}
    changed = getattr(instance, TRACKER_ATTRIBUTE).changed()
    previous = {field.name: changed[field.attname] for field in fields if field.attname in changed}
    return {name: value for name, value in previous.items() if not hasattr(value, "resolve_expression")}


def note(instance: Any, previous: dict[str, Any], *, since: Any = None, by_hand: bool = False) -> dict[str, Any]:
    """Keep previous values for ``get_tracked_fields_data``; returns them with those noted before.

    The oldest value of a field counts among those that were noted for the same transaction, ``since``. ``by_hand``: it
    is the project that has noted them, for a write that goes past ``save()``.
    """
    earlier_since, earlier, _ = instance.__dict__.get(_NOTED, (None, {}, False))
    if since is not None and since is earlier_since:
        previous = {**previous, **earlier}
    instance.__dict__[_NOTED] = (since, previous, by_hand)
    return previous


def noted(instance: Any) -> dict[str, Any]:
    """The previous values of the change to come, or, where nothing has changed since, those that were noted last."""
    since, earlier, _ = instance.__dict__.get(_NOTED, (None, {}, False))
    changed = previous_values(instance)
    if since is not None and instance._state.db and since is connections[instance._state.db].run_on_commit:
        return {**changed, **earlier}
    return changed or earlier


def take_noted(instance: Any) -> dict[str, Any] | None:
    """The previous values that the project has noted by hand, once; None where it has not."""
    since, previous, by_hand = instance.__dict__.get(_NOTED, (None, {}, False))
    if not by_hand:
        return None
    instance.__dict__[_NOTED] = (since, previous, False)
    return previous


def saved(instance: Model, names: Collection[str]) -> None:
    """Take the present values of fields as saved, by their names: the tracker itself knows foreign keys by column."""
    attnames = [f.attname for f in _followed(type(instance)) if f.name in names and f.name != f.attname]
    if attnames:
        getattr(instance, TRACKER_ATTRIBUTE).set_saved_fields(fields=attnames)


def as_updated(model: Any, before: Sequence[Any], changed: Collection[str], using: str) -> list[Any]:
    """The rows as an update has left them, for hooks to see; they know what their tracked fields held before."""
    tracked = [f for f in _followed(model) if f.name in changed or f.attname in changed]
    previous = {row.pk: {f.name: getattr(row, f.attname) for f in tracked} for row in before}
    rows = list(model._base_manager.using(using).filter(pk__in=list(previous)).order_by("pk"))
    for row in rows:
        note(row, previous[row.pk], by_hand=True)
    return rows
