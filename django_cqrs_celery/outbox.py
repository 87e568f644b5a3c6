"""The outbox: write promises in the transaction of the change, and turn them into messages when they are due."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

from django.db import connections, router, transaction
from django.db.models import F
from django.db.models.functions import Now

from django_cqrs_celery import conf, images, signals, triggers
from django_cqrs_celery.constants import RAISE, REVISION_FIELD, UPDATED_FIELD, SignalType
from django_cqrs_celery.dataclasses import TransportPayload, dumps, encode_message, loads
from django_cqrs_celery.exceptions import CQRSError, EncodeError
from django_cqrs_celery.models import OutboxMessage
from django_cqrs_celery.registries import MasterRegistry

_COLUMNS = (
    "signal_type", "cqrs_id", "instance_pk", "revision", "instance_data", "previous_data", "meta", "correlation_id",
    "queue",
)  # fmt: skip


#: ``revision`` of a SAVE whose row may have the key of a deleted one, which is to be found out when it is published.
UNCHECKED = 0


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One outbox row to be written; the fields are the columns of ``OutboxMessage``, JSON as text."""

    signal_type: SignalType
    cqrs_id: str
    instance_pk: str
    revision: int | None = None
    instance_data: str | None = None
    previous_data: str | None = None
    meta: str | None = None
    correlation_id: str | None = None
    queue: str | None = None

    def values(self) -> list[Any]:
        """Values in the order of ``_COLUMNS``."""
        return [
            self.signal_type.value, self.cqrs_id, self.instance_pk, self.revision, self.instance_data,
            self.previous_data, self.meta, self.correlation_id, self.queue,
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message to publish, and the outbox rows that it fulfils."""

    cqrs_id: str
    queue: str | None
    body: bytes
    changes: int
    rows: tuple[int, ...]
    #: Whether it is all that was waiting: one change of a row that was there before.
    lone: bool = False


@dataclass(kw_only=True)
class Composition:
    """What a claim became: messages, rows that need none, and rows that cannot be sent, by reason."""

    messages: list[Message] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    refused: dict[str, list[int]] = field(default_factory=dict)

    def refuse(self, reason: str, rows: Iterable[int]) -> None:
        """Note rows that cannot be sent."""
        self.refused.setdefault(reason, []).extend(rows)


# --- writing -------------------------------------------------------------------------------------------------------


def record(promise: Promise, using: str, *, created: bool = False) -> tuple[int | None, int | None]:
    """Write one promise into the open transaction.

    Returns the id of the outbox row (None for a save where the settings want none) and, for a row that was just
    ``created``, the revision of the last delete under its primary key, if there was one. The look-up is part of the
    INSERT and so comes after the row was written: before it, a delete that commits while the row's INSERT waits for it
    would be missed.
    """
    if promise.signal_type is SignalType.SAVE and not conf.outbox():
        _publish_unpromised(promise, using)
        found = last_deleted(promise.cqrs_id, [promise.instance_pk], using) if created else {}
        return None, found.get(promise.instance_pk)
    connection = connections[using]
    returning = connection.features.can_return_columns_from_insert and connection.vendor != "mysql"
    # A column without a value is left out: most rows say only which row was saved.
    filled = {name: value for name, value in zip(_COLUMNS, promise.values(), strict=True) if value is not None}
    sql = _insert_sql(using, tuple(filled), returning, created and returning)
    params = list(filled.values())
    if created and returning:
        params += [SignalType.DELETE.value, promise.cqrs_id, promise.instance_pk]
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        if returning:
            row = cursor.fetchone()
            return row[0], row[1] if created else None
        identity = connection.ops.last_insert_id(cursor, OutboxMessage._meta.db_table, "id")
    revision = last_deleted(promise.cqrs_id, [promise.instance_pk], using).get(promise.instance_pk) if created else None
    return identity, revision


def _publish_unpromised(promise: Promise, using: str) -> None:
    row = OutboxMessage(**dict(zip(_COLUMNS, promise.values(), strict=True)))

    def committed() -> None:
        signals.unpromised_committed.send(sender=OutboxMessage, row=row, using=using)

    transaction.on_commit(committed, using=using, robust=True)


@cache
def _insert_sql(using: str, names: tuple[str, ...], returning: bool, with_tombstone: bool) -> str:
    quote = connections[using].ops.quote_name
    table = quote(OutboxMessage._meta.db_table)
    sql = f"INSERT INTO {table} ({', '.join(map(quote, names))}) VALUES ({', '.join(['%s'] * len(names))})"
    if returning:
        sql += f" RETURNING {quote('id')}"
    if with_tombstone:
        revision = f"d.{quote('revision')}"
        sql += (
            f", (SELECT {revision} FROM {table} d WHERE d.{quote('signal_type')} = %s AND d.{quote('cqrs_id')} = %s"
            f" AND d.{quote('instance_pk')} = %s ORDER BY {revision} DESC LIMIT 1)"
        )
    return sql


def record_many(promises: Sequence[Promise], using: str) -> None:
    """Write many promises into the open transaction, in few statements."""
    rows = [OutboxMessage(**dict(zip(_COLUMNS, promise.values(), strict=True))) for promise in promises]
    OutboxMessage.objects.using(using).bulk_create(rows, batch_size=1000)


def record_saves(cqrs_id: str, pks: Sequence[str], using: str) -> None:
    """Write promises that say nothing but which rows were saved, in few statements."""
    connection = connections[using]
    quote = connection.ops.quote_name
    table = quote(OutboxMessage._meta.db_table)
    columns = ", ".join(map(quote, ("signal_type", "cqrs_id", "instance_pk")))
    head, kind = f"INSERT INTO {table} ({columns})", SignalType.SAVE.value
    with connection.cursor() as cursor:
        for start in range(0, len(pks), _SAVES_AT_ONCE):
            part = list(pks[start : start + _SAVES_AT_ONCE])
            if connection.vendor == "postgresql":
                cursor.execute(f"{head} SELECT %s, %s, pk FROM unnest(%s::text[]) AS pk", [kind, cqrs_id, part])
            else:
                rows = ", ".join(["(%s, %s, %s)"] * len(part))
                cursor.execute(f"{head} VALUES {rows}", [value for pk in part for value in (kind, cqrs_id, pk)])


#: Rows of one INSERT of plain promises; SQLite takes 999 parameters of old, 32,766 since 3.32.
_SAVES_AT_ONCE = 5000


def last_deleted(cqrs_id: str, pks: Sequence[str], using: str) -> dict[str, int]:
    """Highest revision of a delete by primary key text, for keys that had one."""
    found: dict[str, int] = {}
    for start in range(0, len(pks), 1000):
        for pk, revision in OutboxMessage.objects.using(using).deletes_of(cqrs_id, pks[start : start + 1000]):
            found[pk] = max(revision, found.get(pk, revision))
    return found


def lift_above_deletes(model: Any, found: dict[str, Any], keys: Iterable[str], using: str) -> None:
    """Raise rows above the last delete under their keys, in the database and among the images that were ``found``.

    A row that took over the key of a deleted one must not go out with a revision that replicas take for older.
    """
    lifted = []
    for key, revision in last_deleted(model.CQRS_ID, sorted(keys), using).items():
        image = found.get(key)
        if isinstance(image, dict) and image[REVISION_FIELD] <= revision:
            rows = model._base_manager.using(using).filter(pk=images.python_pk(model, key))
            rows.filter(**{f"{REVISION_FIELD}__lte": revision}).update(
                **{REVISION_FIELD: triggers.written(model, using, revision + 1)}
            )
            lifted.append(key)
    if lifted:
        found.update(images.read(model, lifted, using))


def complete_deletes(promises: Sequence[Promise], using: str) -> None:
    """Give the outbox rows that triggers wrote of these deletes what only Python knows of them."""
    rows = {(row.cqrs_id, row.instance_pk): row for row in promises}
    added = ["instance_data", "meta", "correlation_id"]
    for start in range(0, len(promises), 1000):
        part = promises[start : start + 1000]
        found = OutboxMessage.objects.using(using).pending().tombstones().filter(
            cqrs_id__in={promise.cqrs_id for promise in part}, instance_pk__in=[promise.instance_pk for promise in part]
        )  # fmt: skip
        newest = {(row.cqrs_id, row.instance_pk): row for row in found.order_by("pk")}
        changed = []
        for key in newest.keys() & rows.keys():
            row, promise = newest[key], rows[key]
            for name in added:
                setattr(row, name, getattr(promise, name))
            changed.append(row)
        OutboxMessage.objects.using(using).bulk_update(changed, added, batch_size=500)


def announce(using: str) -> None:
    """Tell the dispatcher of this process once the open transaction has committed; with a relay there is none."""
    if conf.dispatch.raw() == "relay":
        return

    def committed() -> None:
        signals.outbox_committed.send(sender=OutboxMessage, using=using)

    transaction.on_commit(committed, using=using, robust=True)


# --- publishing ----------------------------------------------------------------------------------------------------


def aliases() -> list[str]:
    """Database aliases that hold an outbox."""
    found = []
    for alias in connections:
        if connections[alias].settings_dict.get("TEST", {}).get("MIRROR"):
            continue
        if router.allow_migrate_model(alias, OutboxMessage) and _has_table(alias):
            found.append(alias)
    return found


_known_tables: set[str] = set()


def _has_table(alias: str) -> bool:
    if alias not in _known_tables:
        connection = connections[alias]
        with connection.cursor() as cursor:
            if OutboxMessage._meta.db_table not in connection.introspection.table_names(cursor):
                return False
        _known_tables.add(alias)
    return True


def compose(rows: Sequence[OutboxMessage], using: str) -> Composition:
    """Turn claimed outbox rows into messages; the rows of the models are read here, after their commits."""
    composition = Composition()
    groups: dict[tuple[str, str | None], list[OutboxMessage]] = {}
    for row in rows:
        groups.setdefault((row.cqrs_id, row.queue), []).append(row)
    for (cqrs_id, queue), group in groups.items():
        try:
            writer = MessageWriter(cqrs_id, queue, composition, of_one=len(rows) == 1)
            _compose_group(writer, group, using)
        except CQRSError as error:
            composition.refuse(str(error), [row.pk for row in group])
    return composition


def _compose_group(writer: MessageWriter, group: list[OutboxMessage], using: str) -> None:
    cqrs_id, queue, composition = writer.cqrs_id, writer.queue, writer.composition
    model = MasterRegistry.get_model_by_cqrs_id(cqrs_id)
    merged = _coalesce(group)
    _raise_revisions(model, {row.instance_pk for row in group if row.revision == RAISE}, using)
    reads = {row.instance_pk for row, _, _ in merged if row.signal_type != SignalType.DELETE.value}
    found = images.read(model, reads, using, sync=queue is not None) if reads else {}
    unchecked = {row.instance_pk for row in group if row.signal_type != SignalType.DELETE and row.revision is not None}
    if unchecked:
        lift_above_deletes(model, found, unchecked, using)
    ttl = conf.message_ttl()
    expires = None if ttl is None else datetime.now(timezone.utc) + timedelta(seconds=ttl)
    for row, previous, row_pks in merged:
        try:
            change = _change_of(row, previous, found.get(row.instance_pk), model, expires)
            if change is None:
                # The row is gone: its delete has an outbox row of its own.
                composition.settled.extend(row_pks)
            else:
                writer.add(dumps(change.to_dict()), row_pks)
                writer.is_update = change.signal_type is SignalType.SAVE and change.revision > 0
        except EncodeError as error:
            composition.refuse(str(error), row_pks)
    writer.close()


def _raise_revisions(model: Any, keys: Iterable[str], using: str) -> None:
    """Raise rows whose triggers could not, before they are read; of a row that is raised twice nobody minds."""
    following = triggers.written(model, using, F(REVISION_FIELD) + 1)
    wanted = sorted(keys)
    for start in range(0, len(wanted), 1000):
        pks = [images.python_pk(model, key) for key in wanted[start : start + 1000]]
        rows = model._base_manager.using(using).filter(pk__in=pks)
        rows.update(**{REVISION_FIELD: following, UPDATED_FIELD: Now()})


def _coalesce(group: list[OutboxMessage]) -> list[tuple[OutboxMessage, dict[str, Any], list[int]]]:
    """The last change per row and kind, in order, with the oldest previous values and all the outbox rows it covers."""
    merged: dict[tuple[bool, str, str], tuple[OutboxMessage, dict[str, Any], list[int]]] = {}
    for row in group:
        previous = loads(row.previous_data) if row.previous_data else {}
        key = (row.signal_type == SignalType.DELETE.value, row.signal_type, row.instance_pk)
        earlier = merged.pop(key, None)
        if earlier is None:
            merged[key] = (row, previous, [row.pk])
        else:
            last = earlier[0] if (earlier[0].revision or 0) > (row.revision or 0) else row
            merged[key] = (last, {**previous, **earlier[1]}, [*earlier[2], row.pk])
    return list(merged.values())


def _change_of(
    row: OutboxMessage,
    previous: dict[str, Any],
    image: dict[str, Any] | EncodeError | None,
    model: Any,
    expires: datetime | None,
) -> TransportPayload | None:
    if row.signal_type == SignalType.DELETE.value:
        pk_name = model._meta.pk.name
        data = loads(row.instance_data) if row.instance_data else {}
        data.setdefault(REVISION_FIELD, row.revision)
        if pk_name not in data:
            data[pk_name] = images.wire_pk(model, images.python_pk(model, row.instance_pk))
        pk = data[pk_name]
    else:
        if image is None:
            return None
        if isinstance(image, EncodeError):
            raise image
        data = image
        pk = images.wire_pk(model, images.python_pk(model, row.instance_pk))
    return TransportPayload(
        signal_type=SignalType(row.signal_type),
        cqrs_id=row.cqrs_id,
        instance_data=data,
        instance_pk=pk,
        queue=row.queue,
        previous_data=previous or None,
        correlation_id=row.correlation_id,
        expires=expires,
        meta=loads(row.meta) if row.meta else None,
    )


class MessageWriter:
    """Fills messages up to the limits in changes and bytes."""

    def __init__(
        self, cqrs_id: str, queue: str | None, composition: Composition, *, of_one: bool = False
    ) -> None:
        #: Whether there is but one outbox row, and whether the last change is one of a row that was there before.
        self.of_one, self.is_update = of_one, False
        self.cqrs_id, self.queue, self.composition = cqrs_id, queue, composition
        self.max_changes, self.max_bytes = conf.message_max_changes(), conf.message_max_bytes()
        self.texts: list[str] = []
        self.rows: list[int] = []
        self.size = 0

    def add(self, text: str, rows: list[int]) -> None:
        """Put a change into the message, and the outbox rows that it fulfils."""
        if self.texts and (len(self.texts) >= self.max_changes or self.size + len(text) > self.max_bytes):
            self.close()
        self.texts.append(text)
        self.rows.extend(rows)
        self.size += len(text)

    def close(self) -> None:
        """Finish the message that is being filled."""
        if self.texts:
            self.composition.messages.append(
                Message(
                    cqrs_id=self.cqrs_id,
                    queue=self.queue,
                    body=encode_message(self.texts),
                    changes=len(self.texts),
                    rows=tuple(self.rows),
                    lone=self.of_one and self.is_update and self.queue is None,
                )
            )
        self.texts, self.rows, self.size = [], [], 0
