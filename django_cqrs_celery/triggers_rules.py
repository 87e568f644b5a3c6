"""Which models the database captures by triggers, and why others stay with the ORM."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from functools import cache
from typing import Any

from django_cqrs_celery import conf, tracker, triggers_plan
from django_cqrs_celery.constants import ALL_BASIC_FIELDS
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
    return (asked == "trigger" or (asked == "auto" and not asks_instances(model))) and bool(conf.outbox.raw())


def asks_instances(model: Any) -> bool:
    """Whether hooks of the instance have a say in its change."""
    hooks = ("is_sync_instance", "get_cqrs_meta", "get_custom_cqrs_delete_data")
    return any(not getattr(getattr(model, name, None), "cqrs_default", False) for name in hooks)


def asked_for(model: Any) -> Any:
    """What ``CQRS_CAPTURE`` of a model says, or else the setting."""
    return getattr(model, "CQRS_CAPTURE", None) or conf.capture.raw()


def why_not(model: Any) -> str | None:
    """Why the changes of this model cannot be captured by triggers; None where they can."""
    options = model._meta
    fields = getattr(model, "CQRS_FIELDS", ALL_BASIC_FIELDS)
    if fields != ALL_BASIC_FIELDS and (isinstance(fields, str) or not isinstance(fields, Collection)):
        return "its CQRS_FIELDS are no list of names"
    if options.parents:
        return "its row is spread over several tables"
    if any(model in other._meta.get_parent_list() for other in MasterRegistry.models.values()):
        return "the rows of another master model are spread over its table and others"
    if type(options.pk).__name__ == "CompositePrimaryKey":
        return "its primary key is composite"
    names = [model.CQRS_ID, options.db_table, *(str(f.column) for f in options.local_concrete_fields)]
    if any("%" in name for name in names):
        return "there is a percent sign in its CQRS_ID, table or a column"
    return None


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
    hooked = overrides.__wrapped__(model) or conf.meta_function.raw() or conf.correlation_function.raw()
    return "its hooks have a say in each change" if hooked else None
