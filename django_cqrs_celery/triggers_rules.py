"""Which models the database captures by triggers, and why others stay with the ORM."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from functools import cache
from typing import Any

from django_cqrs_celery import conf, links, tracker, triggers_plan
from django_cqrs_celery.constants import ALL_BASIC_FIELDS, REVISION_FIELD
from django_cqrs_celery.registries import MasterRegistry

#: What the names of all triggers begin with.
PREFIX = "cqrs_"


def name_of(cqrs_id: str) -> str:
    """Name of the triggers of a CQRS_ID, with room for the suffix of each."""
    word = re.sub(r"\W+", "_", cqrs_id.lower(), flags=re.ASCII)[:24]
    return f"{PREFIX}{word}_{hashlib.sha256(cqrs_id.encode()).hexdigest()[:6]}"


def wanted(model: Any) -> bool:
    """Whether the project asks for triggers on this model: by ``CQRS_CAPTURE``, else by the setting ``capture``.

    It is asked while models are loaded, before the system check of a setting that is no good can say so.
    """
    asked = asked_for(model)
    by_itself = asked == "auto" and not asks_instances(model) and _parents_are_managed(model)
    return (asked == "trigger" or by_itself) and bool(conf.outbox.raw())


def _parents_are_managed(model: Any) -> bool:
    """Whether all tables of the model are Django's; another's may belong to who lets nobody create triggers."""
    return all(parent._meta.managed for parent in model._meta.get_parent_list())


def asks_instances(model: Any) -> bool:
    """Whether hooks of the instance have a say in its change."""
    hooks = ("is_sync_instance", "get_cqrs_meta", "get_custom_cqrs_delete_data")
    return any(not getattr(getattr(model, name, None), "cqrs_default", False) for name in hooks)


def asked_for(model: Any) -> Any:
    """What ``CQRS_CAPTURE`` of a model says, or else the setting."""
    return getattr(model, "CQRS_CAPTURE", None) or conf.capture.raw()


def why_not(model: Any) -> str | None:
    """Why the changes of this model cannot be captured by triggers; None where they can."""
    reason = _why_not_alone(model)
    others = [] if reason else sorted(family(model) - {model}, key=lambda other: str(other._meta.label))
    for other in others:
        if not wanted(other):
            return f"the ORM captures {other._meta.label}, and its rows are spread over the same tables"
        if found := _why_not_alone(other):
            return f"the rows of {other._meta.label} are spread over the same tables, and {found}"
    return reason


def _why_not_alone(model: Any) -> str | None:
    options = model._meta
    fields = getattr(model, "CQRS_FIELDS", ALL_BASIC_FIELDS)
    if fields != ALL_BASIC_FIELDS and (isinstance(fields, str) or not isinstance(fields, Collection)):
        return "its CQRS_FIELDS are no list of names"
    if options.proxy:
        return "it is a proxy of another model"
    tables = [model, *options.get_parent_list()]
    # Their links, too: a parent's key may be another than that of its own parent.
    if not all(link is not None and link.primary_key for table in tables for link in table._meta.parents.values()):
        return "its row is spread over several tables, which do not have the same primary key"
    if type(options.pk).__name__ == "CompositePrimaryKey":
        return "its primary key is composite"
    names = [str(f.column) for table in tables for f in table._meta.local_concrete_fields]
    if any("%" in name for name in [model.CQRS_ID, *(table._meta.db_table for table in tables), *names]):
        return "there is a percent sign in its CQRS_ID, table or a column"
    if is_spread(model) and _is_hooked(model):
        return "its row is spread over several tables, and its hooks have a say in each change"
    return None


def is_spread(model: Any) -> bool:
    """Whether a row of the model is spread over several tables, or shares its own with another master model."""
    return bool(model._meta.parents) or len(family(model)) > 1


def family(model: Any) -> set[Any]:
    """The master model and those with which it shares tables: they share revisions, too."""
    registered: list[Any] = list(MasterRegistry.models.values())
    masters = [m for m in registered if getattr(m, "CQRS_PRODUCE", False)]
    related = {m: {m, *m._meta.get_parent_list()} for m in masters}
    found, fresh = {model}, {model}
    while fresh:
        fresh = {
            m for m in masters for f in fresh if m not in found and (m in f._meta.get_parent_list() or f in related[m])
        }
        found |= fresh
    return found


def ancestors(model: Any) -> list[Any]:
    """The master models that a model inherits."""
    return [m for m in model._meta.get_parent_list() if m in family(model)]


def holder(model: Any) -> Any:
    """The model in whose table the revision of a row is."""
    return model._meta.get_field(REVISION_FIELD).model


def has_hooks(model: Any) -> bool:
    """Whether a change of this model needs its instance: for a hook, for a function of the settings.

    So it is as well where SQL has no wire values of a tracked field.
    """
    return overrides(model) or conf.has_functions()


@cache
def overrides(model: Any) -> bool:
    """Whether the class of a model asks for its instances."""
    return asks_instances(model) or any(
        triggers_plan.kind_of(field) is None for field in tracker.tracked_fields(model)
    )


def why_not_links(model: Any) -> str | None:
    """Why the links of a model that triggers capture are left to the ORM; None where they are not."""
    # Not from memory: a decorator of the class may add a hook yet.
    if _is_hooked(model):
        return "its hooks have a say in each change"
    for field in links.replicated.__wrapped__(model):
        if field.model is not model and field not in links.replicated.__wrapped__(field.model):
            return f"the field {field.name} belongs to {field.model._meta.label}, which does not replicate it"
    return None


def _is_hooked(model: Any) -> bool:
    return bool(overrides.__wrapped__(model) or conf.meta_function.raw() or conf.correlation_function.raw())
