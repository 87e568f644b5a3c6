"""What can be wrong with a model on either side, and with where its tables are; ``checks`` reports it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Warning
from django.db import DatabaseError, models, router

from django_cqrs_celery import conf, serialization, topology
from django_cqrs_celery.constants import CQRS_ID_MAX_LENGTH, PK_MAX_LENGTH
from django_cqrs_celery.models import DeadLetter, OutboxMessage, Presence, Tombstone

#: Longest routing key of AMQP, in bytes.
_ROUTING_KEY_MAX = 255


def error(number: str, message: str, hint: str, model: Any) -> Error:
    """An error of a model."""
    return Error(message, hint=hint, obj=model, id=f"django_cqrs_celery.{number}")


def warning(number: str, message: str, hint: str, model: Any) -> Warning:
    """A warning of a model."""
    return Warning(message, hint=hint, obj=model, id=f"django_cqrs_celery.{number}")


def label(model: Any) -> str:
    """How a model, or a replica class that is none, is called in messages."""
    meta = getattr(model, "_meta", None)
    return meta.label if meta is not None else f"{model.__module__}.{model.__qualname__}"


def is_text(value: Any) -> bool:
    """Whether a value is a string with something in it."""
    return isinstance(value, str) and bool(value)


def listed(names: Iterable[Any]) -> str:
    """Names, as a sentence lists them."""
    return ", ".join(str(name) for name in names)


def twice(names: Sequence[str]) -> list[str]:
    """Names that occur more than once."""
    return sorted({name for name in names if names.count(name) > 1})


# --- both sides ----------------------------------------------------------------------------------------------------


def refusals(side: str, refused: Iterable[tuple[Any, str]]) -> Iterator[CheckMessage]:
    """Models that could not join a registry."""
    for model, reason in refused:
        if is_text(getattr(model, "CQRS_ID", None)):
            yield error(
                "E021",
                f"{label(model)} is not replicated: its {reason}.",
                f"Give it a CQRS_ID that no other {side} model of this service has. A child in multi-table inheritance"
                " may set CQRS_AUTO_REGISTER = False instead: its parent is replicated without it.",
                model,
            )
        else:
            yield error(
                "E020",
                f"{label(model)} is not replicated: it has {reason}.",
                "Set CQRS_ID on the class to a non-empty string, the same on the master and on its replicas.",
                model,
            )


def cqrs_id_problems(model: Any) -> Iterator[CheckMessage]:
    """A CQRS_ID that cannot be a routing key or a column value."""
    cqrs_id = model.CQRS_ID
    wrong = None
    if len(cqrs_id) > CQRS_ID_MAX_LENGTH:
        wrong = f"is longer than {CQRS_ID_MAX_LENGTH} characters"
    elif cqrs_id != cqrs_id.strip():
        wrong = "begins or ends with a space"
    elif "*" in cqrs_id or "#" in cqrs_id:
        wrong = "contains * or #, which are wildcards in a broker's bindings"
    elif cqrs_id.startswith("cqrs."):
        wrong = "begins with 'cqrs.', as only messages for one queue do"
    else:
        queues = [name for name in (conf.queue.raw(), *_replicas()) if isinstance(name, str)]
        keys = [topology.routing_key(cqrs_id, name) for name in queues]
        if any(len(key.encode()) > _ROUTING_KEY_MAX for key in keys):
            wrong = f"makes, with the name of the queue, a routing key of more than {_ROUTING_KEY_MAX} bytes"
    if wrong:
        yield error(
            "E022",
            f"The CQRS_ID {cqrs_id!r} of {label(model)} {wrong}.",
            "Choose a short name of letters, digits, '_' and '.', the same on the master and on its replicas.",
            model,
        )


def _replicas() -> Sequence[str]:
    return () if conf.replicas.problem() else conf.replicas.raw()


def flags(model: Any, names: Iterable[str]) -> Iterator[CheckMessage]:
    """Class attributes that are not True or False."""
    for name in names:
        value = getattr(model, name, False)
        if not isinstance(value, bool):
            yield error(
                "E027", f"{label(model)}.{name} is {value!r}, expected True or False.", "Write True or False.", model
            )


def primary_key(model: Any) -> Iterator[CheckMessage]:
    """A primary key that the tables of replication cannot hold."""
    pk = model._meta.pk
    if isinstance(pk, models.CompositePrimaryKey):
        yield error(
            "E023",
            f"{label(model)} has a composite primary key, which is not supported.",
            "Give the model a primary key of one column, and a UniqueConstraint over the columns.",
            model,
        )
        return
    field = _column(pk)
    unlimited = isinstance(field, (models.TextField, models.BinaryField))
    if isinstance(field, models.CharField):
        unlimited = field.max_length is None or field.max_length > PK_MAX_LENGTH
    if unlimited:
        yield error(
            "E024",
            f"The primary key {label(model)}.{pk.name} may be longer than {PK_MAX_LENGTH} characters, the most that"
            " the tables of replication hold.",
            f"Make it a CharField with max_length={PK_MAX_LENGTH} or less.",
            model,
        )


def _column(field: Any) -> Any:
    """The field whose values a column holds; None where a foreign key leads to a model that is not there."""
    while isinstance(field, models.ForeignKey):
        if isinstance(field.related_model, str):
            return None
        field = field.target_field
    return field


def travel(model: Any, fields: Iterable[Any]) -> Iterator[CheckMessage]:
    """Fields whose values have no form in a message."""
    for field in fields:
        reason = None if _column(field) is None else serialization.why_unsendable(field)
        if reason:
            yield error(
                "E025",
                f"The values of {label(model)}.{field.name} cannot be replicated: {reason}.",
                _travel_hint(field),
                model,
            )


def _travel_hint(field: Any) -> str:
    leave_out = "leave the field out (CQRS_FIELDS on a master, CQRS_MAPPING on a replica)"
    if any(cls.__module__.startswith("django.contrib.gis.") for cls in type(field).__mro__):
        return (
            "Let a serializer send it as text (CQRS_SERIALIZER: field.ewkt, say) and the replica's hooks read it"
            " (CQRS_CUSTOM_SERIALIZATION and GEOSGeometry()), send coordinates in columns of their own, or"
            f" {leave_out}."
        )
    return f"Define to_python() and value_to_string() on the field's class, or {leave_out}."


def fields_of(model: Any) -> dict[str, Any]:
    """Concrete fields by name."""
    return {field.name: field for field in model._meta.concrete_fields}


# --- tables --------------------------------------------------------------------------------------------------------


def missing_tables(masters: Iterable[Any], replicas: Iterable[Any], databases: Sequence[str] | None) -> Iterator[Error]:
    """Databases that hold replicated models but, by the project's routers, not the tables of this app."""
    needs: list[tuple[Any, str, Any]] = [(m, router.db_for_write(m), OutboxMessage) for m in masters]
    for replica in replicas:
        is_model = issubclass(replica, models.Model)
        alias = router.db_for_write(replica if is_model else DeadLetter)
        needs.append((replica, alias, DeadLetter))
        if is_model and not getattr(replica, "CQRS_NO_DB_OPERATIONS", False):
            needs.append((replica, alias, Tombstone))
    for model, alias, table in needs:
        if (databases is None or alias in databases) and not router.allow_migrate_model(alias, table):
            yield error(
                "E060",
                f"{label(model)} is written to the database '{alias}', but the routers keep the table of"
                f" {table._meta.label} out of it; they have to be written in one transaction.",
                f"Let allow_migrate() of DATABASE_ROUTERS say True for '{table._meta.app_label}' on '{alias}', then"
                " migrate that database.",
                model,
            )


def absences(databases: Sequence[str]) -> Iterator[CheckMessage]:
    """Replicas that were away for longer than tombstones live and were not refilled since."""
    alias = router.db_for_write(DeadLetter)
    if alias not in databases:
        return
    try:
        away = list(Presence.objects.using(alias).absences())
    except DatabaseError:  # not migrated yet, or not reachable: others say so
        return
    for each in away:
        yield warning(
            "W061",
            f"No worker consumed {each.queue} from {each.away_since:%Y-%m-%d %H:%M} to"
            f" {each.away_until:%Y-%m-%d %H:%M}, which is longer"
            " than tombstones live: rows that were deleted meanwhile may still be here.",
            "Refill the replica (A replica was away for long, in the runbook), then run cqrs_status --synchronised.",
            None,
        )
