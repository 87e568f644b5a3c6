"""Differences by pipe: what two services find out about each other's rows where only a stream of text joins them.

A stream begins with a head, ``CQRS_ID,time`` (a replica adds its queue), and goes on with one JSON list a line. All
keys are wire values, so they mean the same on every engine and for every type of primary key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ujson
from django.db import connections, models
from django.utils import timezone

from django_cqrs_celery import applier, burials, dead_letters, digests, images, managers, serialization, sync
from django_cqrs_celery.constants import NO_QUEUE, REVISION_FIELD, Outcome, SignalType
from django_cqrs_celery.dataclasses import MAX_REVISION, TransportPayload, loads
from django_cqrs_celery.exceptions import ApplyError, CQRSError, DecodeError

#: Keys of one query where the engine takes no array.
_KEYS_AT_ONCE = 500

# --- streams -------------------------------------------------------------------------------------------------------


def head_of(model: Any) -> str:
    """The first line of a stream about a model."""
    return f"{model.CQRS_ID},{timezone.now()}"


def cqrs_id_of(head: str, *, from_replica: bool = False) -> tuple[str, str | None]:
    """CQRS_ID and, ``from_replica``, queue that a first line names. Raises ``CQRSError``."""
    parts = head.strip().rsplit(",", 2 if from_replica else 1)
    if len(parts) != (3 if from_replica else 2) or not parts[0]:
        raise CQRSError(
            "The first line is not that of a diff (CQRS_ID, time" + (", queue" if from_replica else "") + "): is the"
            " command before this one in the pipe the right one, and did it end well?"
        )
    queue = parts[2] if from_replica else None
    return parts[0], None if queue == NO_QUEUE else queue


def line_of(package: Sequence[Any]) -> str:
    """A line of a stream."""
    return ujson.dumps(package, ensure_ascii=False, escape_forward_slashes=False)


def _package(line: str) -> list[Any]:
    data = loads(line)
    if not isinstance(data, list):
        raise DecodeError("it is no list")
    return data


def _is_key(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def keys_of(model: Any, line: str) -> list[Any]:
    """The keys in a line, as Python values. Raises ``DecodeError``."""
    keys = _package(line)
    if not all(map(_is_key, keys)):
        raise DecodeError("it holds something that is no primary key")
    return _decoded(model, keys)


def revisions_of(line: str) -> list[tuple[Any, int]]:
    """Keys and revisions in a line. Raises ``DecodeError``."""
    pairs = _package(line)
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and _is_key(pair[0]) and type(pair[1]) is int):
            raise DecodeError("it holds something that is no pair of primary key and revision")
        if not 0 <= pair[1] <= MAX_REVISION:
            raise DecodeError("it holds a number that is no revision")
    return [(key, revision) for key, revision in pairs]


def table_of(model: Any) -> Any:
    """The model. Raises ``CQRSError`` where it keeps its rows in no table of this service."""
    if not issubclass(model, models.Model) or getattr(model, "CQRS_NO_DB_OPERATIONS", False):
        raise CQRSError(f"{model.CQRS_ID} is kept in no table of this service: there is nothing to compare.")
    return model


# --- one side lists its rows ---------------------------------------------------------------------------------------


def listed(model: Any, filters: Mapping[str, Any] | None, size: int) -> Iterator[list[tuple[Any, int]]]:
    """Key and revision of the rows of a model, ``size`` rows at a time: of a master only those that are replicated."""
    queryset = sync.select(model, filters).order_by("pk")
    by_instance = hasattr(model, "is_sync_instance") and not sync.takes_all_rows(model)
    last: Any = None
    while True:
        part = (queryset if last is None else queryset.filter(pk__gt=last))[:size]
        if by_instance:
            instances = list(part)
            rows = [(i.pk, getattr(i, REVISION_FIELD)) for i in instances if i.is_sync_instance()]
            seen = [instance.pk for instance in instances[-1:]]
        else:
            rows = list(part.values_list("pk", REVISION_FIELD))
            seen = [pk for pk, _ in rows[-1:]]
        if not seen:
            return
        last = seen[0]
        yield rows if type(last) is int else [(images.wire_pk(model, pk), revision) for pk, revision in rows]


# --- the other side compares ---------------------------------------------------------------------------------------


def _decoded(model: Any, keys: Sequence[Any]) -> list[Any]:
    """Primary keys as Python values. Raises ``DecodeError`` for one that the model's field cannot take."""
    field_ = model._meta.pk
    if isinstance(serialization.value_field(field_), models.IntegerField) and all(type(key) is int for key in keys):
        return list(keys)
    try:
        return [serialization.decode(field_, key) for key in keys]
    except ApplyError as error:
        raise DecodeError(str(error)) from error


def _known(model: Any, pks: Sequence[Any], using: str) -> dict[Any, int]:
    """Revision by primary key of those rows that are there."""
    connection = connections[using]
    rows = model._base_manager.using(using).order_by()
    if connection.vendor != "postgresql" or model._meta.parents:
        found: dict[Any, int] = {}
        for start in range(0, len(pks), _KEYS_AT_ONCE):
            part = rows.filter(pk__in=pks[start : start + _KEYS_AT_ONCE])
            found.update(part.values_list("pk", REVISION_FIELD))
        return found
    if not pks:
        return {}
    quote, pk = connection.ops.quote_name, model._meta.pk
    revision = model._meta.get_field(REVISION_FIELD)
    sql = (
        f"SELECT {quote(pk.column)}, {quote(revision.column)} FROM {quote(model._meta.db_table)}"
        f" WHERE {quote(pk.column)} = ANY(%s)"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [[pk.get_db_prep_value(value, connection) for value in pks]])
        found = dict(cursor.fetchall())
    return found if isinstance(pks[0], (int, str)) else {pk.to_python(key): number for key, number in found.items()}


@dataclass
class Differing:
    """Keys of rows that are not the same on the replica, and how many of them it lacks, has older, has newer."""

    keys: list[Any] = field(default_factory=list)
    missing: int = 0
    older: int = 0
    newer: int = 0

    def __add__(self, other: Differing) -> Differing:
        return Differing([], self.missing + other.missing, self.older + other.older, self.newer + other.newer)


def differing(model: Any, pairs: Sequence[tuple[Any, int]]) -> Differing:
    """On a replica: which of the master's rows are not here as the master has them. Raises ``DecodeError``."""
    pks = _decoded(model, [key for key, _ in pairs])
    known = _known(model, pks, applier.alias_of(model))
    found = Differing()
    for pk, (key, revision) in zip(pks, pairs, strict=True):
        here = known.get(pk)
        if here != revision:
            found.keys.append(key)
            if here is None:
                found.missing += 1
            elif here < revision:
                found.older += 1
            else:
                found.newer += 1
    return found


def deleted(model: Any, pairs: Sequence[tuple[Any, int]]) -> list[tuple[Any, int]]:
    """On a master: which of a replica's rows are not replicated from here, each with the revision of its delete.

    The master remembers these deletes, so that whoever creates such a row again gets a revision above.
    """
    pks = _decoded(model, [key for key, _ in pairs])
    rows = sync.select(model)
    if sync.takes_all_rows(model):
        here = set(_known(model, pks, rows.db))
    else:
        parts = (rows.filter(pk__in=pks[start : start + _KEYS_AT_ONCE]) for start in range(0, len(pks), _KEYS_AT_ONCE))
        here = {instance.pk for part in parts for instance in part if instance.is_sync_instance()}
    absent = {digests.wire_text(model, pk): pair for pk, pair in zip(pks, pairs, strict=True) if pk not in here}
    burial = burials.Burial(model, rows.db, None, publish=False)
    burial.bury({text: revision for text, (_, revision) in absent.items()})
    return [(absent[text][0], revision) for text, revision in burial.made.items()]


def delete(model: Any, pairs: Sequence[tuple[Any, int]]) -> dict[Outcome, int]:
    """On a replica: apply deletes; returns how many came to what. A row that has changed since stays (stale)."""
    name = managers.master_pk_name(model, {})
    changes = [
        TransportPayload(
            signal_type=SignalType.DELETE, cqrs_id=model.CQRS_ID, instance_pk=key,
            instance_data={REVISION_FIELD: revision, name: key},
        )  # fmt: skip
        for key, revision in pairs
    ]
    _decoded(model, [key for key, _ in pairs])
    outcomes = applier.apply(changes, dead_letters.Keeper())
    return {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
