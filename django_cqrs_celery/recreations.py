"""Rows that a django-cqrs master deletes and creates again: their revisions begin anew at 0.

By revisions alone the new row is older than the delete. The messages also tell when each was made, so that a row which
was saved after its delete is known to be a new one: the tombstone that such a delete has left gives way to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from django.db import models, router

from django_cqrs_celery import bridge, conf
from django_cqrs_celery.constants import SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.models import Tombstone
from django_cqrs_celery.registries import ReplicaRegistry
from django_cqrs_celery.serialization import pk_text

Key = tuple[str, str]


def _key(change: TransportPayload) -> Key:
    return change.cqrs_id, pk_text(change.instance_pk)


def rounds(changes: Sequence[TransportPayload]) -> Iterator[Sequence[TransportPayload]]:
    """The changes in parts to be applied one after the other: a row that is created again begins a new part."""
    start = 0
    deletes: dict[Key, TransportPayload] = {}
    for position, change in enumerate(changes):
        if change.signal_type is SignalType.DELETE:
            deletes[_key(change)] = change
        elif deletes and _is_made_after(change, deletes.get(_key(change))):
            yield changes[start:position]
            start, deletes = position, {}
    yield changes[start:]


def _is_made_after(change: TransportPayload, delete: TransportPayload | None) -> bool:
    if delete is None or change.revision > delete.revision:
        return False
    made, deleted = bridge.time_of(change), bridge.time_of(delete)
    return made is not None and deleted is not None and made > deleted


def remember(deletes: Iterable[TransportPayload]) -> None:
    """Note with the tombstones of these deletes when the master made them; asked after they were applied."""
    for change in deletes:
        moment = bridge.time_of(change)
        using = _alias(change.cqrs_id)
        if moment is not None and using is not None:
            rows = Tombstone.objects.using(using).filter(cqrs_id=change.cqrs_id, revision=change.revision)
            rows.filter(instance_pk=pk_text(change.instance_pk)).update(deleted_at=moment)


def make_way(changes: Iterable[TransportPayload]) -> None:
    """Forget the tombstones of rows that these changes show to have been created again."""
    wanted: dict[tuple[str, str], dict[str, TransportPayload]] = {}
    for change in changes:
        using = None if change.signal_type is SignalType.DELETE else _alias(change.cqrs_id)
        if using is not None:
            wanted.setdefault((using, change.cqrs_id), {})[pk_text(change.instance_pk)] = change
    for (using, cqrs_id), rows in wanted.items():
        found = Tombstone.objects.using(using).filter(cqrs_id=cqrs_id, deleted_at__isnull=False)
        known = found.filter(instance_pk__in=list(rows)).values_list("pk", "instance_pk", "revision", "deleted_at")
        gone = [pk for pk, key, revision, deleted in known if _has_returned(rows.get(key), revision, deleted)]
        if gone:
            found.filter(pk__in=gone).delete()


def _has_returned(change: TransportPayload | None, revision: int, deleted: datetime | None) -> bool:
    if change is None or change.revision > revision:
        return False
    made = bridge.time_of(change)
    return made is not None and deleted is not None and made > deleted


def are_possible() -> bool:
    """Whether this service has, or had, a django-cqrs master."""
    return conf.legacy_queue() is not None or any(_has_foreign(using) for using in _aliases())


_found: dict[str, bool] = {}


def _has_foreign(using: str) -> bool:
    # Only a worker that reads the old queue leaves such tombstones, and that one does not ask.
    if using not in _found:
        _found[using] = Tombstone.objects.using(using).filter(deleted_at__isnull=False).exists()
    return _found[using]


def _alias(cqrs_id: str) -> str | None:
    model = ReplicaRegistry.models.get(cqrs_id)
    if not isinstance(model, type) or not issubclass(model, models.Model):
        return None
    using = router.db_for_write(model)
    return using if router.allow_migrate_model(using, Tombstone) else None


def _aliases() -> set[str]:
    return {using for using in map(_alias, ReplicaRegistry.models) if using is not None}
