"""What can be wrong with a replica model, or a replica class that is no model; ``checks`` reports it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.core.checks import CheckMessage
from django.db import connections, models, router

from django_cqrs_celery import checks_links, links, managers
from django_cqrs_celery import checks_models as common
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.mixins import RawReplicaMixin, ReplicaMixin

_FLAGS = (
    "CQRS_CUSTOM_SERIALIZATION", "CQRS_SELECT_FOR_UPDATE", "CQRS_NO_DB_OPERATIONS", "CQRS_META",
    "CQRS_ONLY_DIRECT_SYNCS",
)  # fmt: skip


def problems(model: Any) -> Iterator[CheckMessage]:
    """Everything that is wrong with one replica model, or with a replica class that is no model."""
    yield from common.cqrs_id_problems(model)
    yield from common.flags(model, _FLAGS)
    yield from _hooks(model)
    if not issubclass(model, models.Model) or getattr(model, "CQRS_NO_DB_OPERATIONS", False):
        return
    yield from common.primary_key(model)
    yield from _replica_columns(model)
    yield from _isolation(model)
    yield from _mapping(model)
    if isinstance(model._meta.pk, models.CompositePrimaryKey):
        return
    if not getattr(model, "CQRS_CUSTOM_SERIALIZATION", False):
        filled = _filled(model)
        yield from common.travel(model, filled)
        yield from _stamped(model, filled)
        if not isinstance(getattr(model, "CQRS_MAPPING", None) or {}, Mapping):
            return
        linked = list(links.received(model).values())
        yield from checks_links.problems(model, linked, "leave it out by a CQRS_MAPPING.")
        yield from checks_links.needs_more(model, linked)


def _hooks(model: Any) -> Iterator[CheckMessage]:
    if not issubclass(model, RawReplicaMixin):
        yield common.error(
            "E044",
            f"The replica {common.label(model)} does not inherit ReplicaMixin or RawReplicaMixin.",
            "Inherit ReplicaMixin, or RawReplicaMixin where the target is no table of Django.",
            model,
        )
        return
    if issubclass(model, models.Model) and not model.CQRS_NO_DB_OPERATIONS:
        return
    defaults = [vars(base)[hook] for base in (RawReplicaMixin, ReplicaMixin) for hook in ("cqrs_save", "cqrs_delete")]
    functions = {default.__func__ for default in defaults}
    for hook in ("cqrs_save", "cqrs_delete"):
        own = getattr(model, hook)
        if getattr(own, "__func__", own) in functions:
            yield common.error(
                "E044",
                f"The replica {common.label(model)} writes no table by itself and does not define {hook}().",
                f"Define the classmethod {hook}(), or set CQRS_NO_DB_OPERATIONS = False on a model with a table.",
                model,
            )


def _replica_columns(model: Any) -> Iterator[CheckMessage]:
    missing = [name for name in (REVISION_FIELD, UPDATED_FIELD) if name not in common.fields_of(model)]
    if missing:
        yield common.error(
            "E026",
            f"The replica model {common.label(model)} has no column {common.listed(missing)}.",
            f"Inherit ReplicaMixin and leave its {REVISION_FIELD} and {UPDATED_FIELD} as they are.",
            model,
        )


def _isolation(model: Any) -> Iterator[CheckMessage]:
    alias = router.db_for_write(model)
    settings = connections[alias].settings_dict
    options = settings.get("OPTIONS") or {}
    level = options.get("isolation_level", "read committed")
    # MySQL's own default, which Django takes for None, is REPEATABLE READ. PostgreSQL's levels are an enumeration.
    name = "repeatable read" if level is None else str(getattr(level, "name", level)).replace("_", " ").lower()
    if connections[alias].vendor == "sqlite" or name in ("read committed", "read uncommitted"):
        return
    if level is None and connections[alias].vendor != "mysql":
        return
    yield common.warning(
        "W046",
        f"{common.label(model)} is written to the database '{alias}' at the isolation level {name.upper()}: a worker"
        " that waits for a row would go on with what was there before it waited.",
        f"Delete isolation_level from the OPTIONS of DATABASES['{alias}'], or set it to 'read committed'.",
        model,
    )


def _mapping(model: Any) -> Iterator[CheckMessage]:
    mapping = getattr(model, "CQRS_MAPPING", None)
    if mapping is None:
        return
    where = f"{common.label(model)}.CQRS_MAPPING"
    if not isinstance(mapping, Mapping) or not all(common.is_text(n) for pair in mapping.items() for n in pair):
        yield common.error(
            "E040",
            f"{where} is {mapping!r}, expected a dict of names.",
            "Write {'name on the master': 'name here', …}, or leave it out where the names are the same.",
            model,
        )
        return
    fields = {f.name: f for f in model._meta.concrete_fields if not isinstance(f, models.GeneratedField)}
    fields |= {f.name: f for f in model._meta.many_to_many}
    by_name = {f.attname: f for f in fields.values()} | fields
    unknown = sorted(name for name in mapping.values() if name not in by_name)
    targets = [by_name[name].name for name in mapping.values() if name in by_name]
    if unknown:
        yield common.error(
            "E042",
            f"{where} fills what is no column of the replica: {common.listed(unknown)}.",
            f"Only columns that can be written can be filled: {common.listed(sorted(fields))}.",
            model,
        )
    double = common.twice(targets)
    if double:
        hint = "Map one field of the master to each column."
        yield common.error("E043", f"{where} fills twice: {common.listed(double)}.", hint, model)
    pk = model._meta.pk
    if mapping and not isinstance(pk, models.CompositePrimaryKey) and pk.name not in targets:
        yield common.error(
            "E041",
            f"{where} does not fill the primary key, {pk.name}.",
            f"Add the master's primary key: {{'id': '{pk.name}', …}}.",
            model,
        )


def _filled(model: Any) -> list[Any]:
    """Columns that a change may fill."""
    mapping = getattr(model, "CQRS_MAPPING", None)
    if mapping and not isinstance(mapping, Mapping):
        return []
    return list(managers.replica_fields(model).values())


def _stamped(model: Any, fields: Iterable[Any]) -> Iterator[CheckMessage]:
    for field in fields:
        if getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False):
            option = "auto_now" if field.auto_now else "auto_now_add"
            yield common.warning(
                "W045",
                f"{common.label(model)}.{field.name} has {option}: where the model is saved through its hooks, the time"
                " of that save overwrites the master's value.",
                f"Delete {option}; for a column that is the replica's own, list the columns that the master fills in"
                " CQRS_MAPPING.",
                model,
            )
