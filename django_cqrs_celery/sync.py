"""Sync: send rows again as the database has them now, to one replica or to all.

Rows are read in the order of their primary keys, a chunk at a time, and published at once: there is nothing to promise,
since what is cut short is simply run again. A row that changes meanwhile has a newer revision on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from django.core.exceptions import FieldError, ValidationError
from django.db import connections, models, router

from django_cqrs_celery import conf, images, rowlines, serialization
from django_cqrs_celery.constants import REVISION_FIELD, SignalType
from django_cqrs_celery.dataclasses import TransportPayload, dumps
from django_cqrs_celery.exceptions import ConfigurationError, EncodeError
from django_cqrs_celery.mixins import RawMasterMixin
from django_cqrs_celery.outbox import Composition, Message, MessageWriter, last_deleted, lift_above_deletes


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows as messages; ``refused`` are rows that cannot be sent, with the reason, by primary key text."""

    messages: list[Message]
    rows: int
    refused: dict[str, str] = field(default_factory=dict)
    #: Primary key text of the last row.
    last: str | None = None


def select(model: type[models.Model], filters: Mapping[str, Any] | None = None, using: str | None = None) -> Any:
    """Rows of a master model by Django lookups. Raises ``ConfigurationError`` for lookups that mean nothing."""
    rows = model._base_manager.using(using or router.db_for_write(model))
    try:
        return rows.filter(**(filters or {}))
    except (FieldError, ValidationError, ValueError, TypeError) as error:
        raise ConfigurationError(f"The filter does not fit {model._meta.label}: {error}") from error


def takes_all_rows(model: Any) -> bool:
    """Whether every row of a master model is replicated: ``is_sync_instance`` is not the project's."""
    return model.is_sync_instance is RawMasterMixin.is_sync_instance


def rows_in_chunks(queryset: Any, size: int, after: Any = None) -> Iterator[dict[str, dict[str, Any] | EncodeError]]:
    """Images of the rows by primary key text, ``size`` at a time, in the order of the keys, ``after`` one."""
    model: Any = queryset.model
    queryset = queryset.order_by("pk")
    at_once = images.is_plain(model) and takes_all_rows(model)
    last: Any = after
    while True:
        part = (queryset if last is None else queryset.filter(pk__gt=last))[:size]
        if at_once:
            found = images.read_rows(model, part, queryset.db)
            pks = [images.python_pk(model, text) for text in list(found)[-1:]]
        else:
            instances = list(part)
            pks = [instance.pk for instance in instances]
            wanted = [instance.pk for instance in instances if instance.is_sync_instance()]
            found = images.read_rows(model, model._base_manager.using(queryset.db).filter(pk__in=wanted), queryset.db)
        if not pks:
            return
        last = pks[-1]
        lift_above_deletes(model, found, found, queryset.db)
        yield found


def lines_in_chunks(queryset: Any, size: int) -> Iterator[dict[str, str | EncodeError]]:
    """As ``rows_in_chunks``, with the JSON text of each image; written by the database where it can."""
    model: Any = queryset.model
    if takes_all_rows(model) and rowlines.are_possible(model, connections[queryset.db].vendor):
        yield from _lines_by_database(queryset.order_by("pk"), size)
        return
    for found in rows_in_chunks(queryset, size):
        yield {key: _line(image) for key, image in found.items()}


def _line(image: dict[str, Any] | EncodeError) -> str | EncodeError:
    try:
        return image if isinstance(image, EncodeError) else dumps(image)
    except EncodeError as error:
        return error


def _lines_by_database(queryset: Any, size: int) -> Iterator[dict[str, str | EncodeError]]:
    model: Any = queryset.model
    last: Any = None
    while True:
        part = (queryset if last is None else queryset.filter(pk__gt=last))[:size]
        lines: dict[str, str | EncodeError] = {}
        revisions: dict[str, int] = {}
        for last, revision, line in rowlines.read(part):  # noqa: B007  (the next chunk begins after the last one)
            key = serialization.pk_text(images.wire_pk(model, last))
            lines[key], revisions[key] = line, revision
        if not lines:
            return
        deleted = last_deleted(model.CQRS_ID, list(lines), queryset.db)
        low: dict[str, Any] = {k: {REVISION_FIELD: revisions[k]} for k, r in deleted.items() if revisions[k] <= r}
        if low:
            lift_above_deletes(model, low, low, queryset.db)
            lines.update({key: _line(image) for key, image in low.items()})
        yield lines


def resend(
    queryset: Any,
    publish: Callable[[Message], None],
    *,
    queue: str | None = None,
    size: int = 2000,
    force: bool = False,
) -> Chunk:
    """Publish the rows of a queryset; returns the sum of its chunks, without the messages."""
    sent, refused = 0, {}
    for chunk in chunks(queryset, queue=queue, size=size, force=force):
        for message in chunk.messages:
            publish(message)
        sent += chunk.rows
        refused.update(chunk.refused)
    return Chunk(messages=[], rows=sent, refused=refused)


def chunks(
    queryset: Any, *, queue: str | None = None, size: int = 2000, force: bool = False, after: Any = None
) -> Iterator[Chunk]:
    """The rows as messages of SYNC changes. ``force``: they win over newer rows of a replica."""
    model: Any = queryset.model
    ttl = conf.message_ttl()
    for found in rows_in_chunks(queryset, size, after):
        expires = None if ttl is None else datetime.now(timezone.utc) + timedelta(seconds=ttl)
        composition = Composition()
        writer = MessageWriter(model.CQRS_ID, queue, composition)
        refused: dict[str, str] = {}
        for key, image in found.items():
            try:
                if isinstance(image, EncodeError):
                    raise image
                change = TransportPayload(
                    signal_type=SignalType.SYNC, cqrs_id=model.CQRS_ID, instance_data=image, expires=expires,
                    instance_pk=images.wire_pk(model, images.python_pk(model, key)), queue=queue, force=force,
                )  # fmt: skip
                writer.add(dumps(change.to_dict()), [])
            except EncodeError as error:
                refused[key] = str(error)
        writer.close()
        rows, last = len(found) - len(refused), next(reversed(found), None)
        yield Chunk(messages=composition.messages, rows=rows, refused=refused, last=last)
