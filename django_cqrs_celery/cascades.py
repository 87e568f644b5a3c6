"""Rows that the delete of another row takes along on a replica.

Their own deletes come from the master as changes of their own, unless the master has given them a new parent, or the
same one again: a parent that was deleted and created anew under its key. Such a row's state would be lost with the
cascade, so it is set aside as a change that waits for its parent, and nothing older may take the row's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections, models

from django_cqrs_celery import linking, serialization
from django_cqrs_celery.constants import REVISION_FIELD, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.managers import replica_fields
from django_cqrs_celery.models import Tombstone
from django_cqrs_celery.registries import ReplicaRegistry

#: A row that goes with its parent, and the foreign key by which it does.
Dependent = tuple[models.ForeignKey, Any]
#: Attribute of such a row that holds the wire values of its links.
_LINKS = "_cqrs_links"


def keys_to(model: type[models.Model]) -> list[Any]:
    """Foreign keys whose rows are deleted with the row of ``model`` that they refer to."""
    relations = [relation for relation in model._meta.related_objects if relation.one_to_many or relation.one_to_one]
    return [r.field for r in relations if getattr(r.on_delete, "__name__", "").endswith("CASCADE")]


def lock_dependents(model: type[models.Model], pks: Sequence[Any], using: str) -> list[Dependent]:
    """Rows that go with these rows, parents first; locked, so that none of them can change or leave meanwhile."""
    found: list[Dependent] = []
    seen = {(model, pk) for pk in pks}
    level = [(model, list(pks))]
    while level:
        parent, parent_pks = level.pop(0)
        for key in keys_to(parent):
            child: Any = key.model
            rows = child._base_manager.using(using).filter(**{f"{key.name}__pk__in": parent_pks}).order_by("pk")
            features = connections[using].features
            if features.has_select_for_update:
                rows = rows.select_for_update(of=("self",) if features.has_select_for_update_of else ())
            fresh = [row for row in rows if (child, row.pk) not in seen]
            seen.update((child, row.pk) for row in fresh)
            for row in fresh:
                # They go with the row, and its state is asked for when it has gone.
                row.__dict__[_LINKS] = linking.state_of(row, using)
            found.extend((key, row) for row in fresh)
            if fresh:
                level.append((child, [row.pk for row in fresh]))
    return found


def state_of(row: Any) -> TransportPayload | None:
    """The state of a replica row as the change that would bring it; None where the row is no readable copy."""
    model: Any = type(row)
    cqrs_id = getattr(model, "CQRS_ID", None)
    if not cqrs_id or ReplicaRegistry.models.get(cqrs_id) != model or model.CQRS_CUSTOM_SERIALIZATION:
        return None
    data = {
        name: serialization.encode(field, getattr(row, field.attname)) for name, field in replica_fields(model).items()
    }
    data.update(row.__dict__.get(_LINKS, {}))
    return TransportPayload(
        signal_type=SignalType.SAVE, cqrs_id=cqrs_id, instance_data=data,
        instance_pk=serialization.encode(model._meta.pk, row.pk),
    )  # fmt: skip


def remember_states(changes: Sequence[TransportPayload], using: str) -> None:
    """Keep older states of rows that have gone from coming back: they count as deleted before their last revision."""
    by_model: dict[str, dict[str, int]] = {}
    for change in changes:
        pk = serialization.pk_text(change.instance_pk)
        by_model.setdefault(change.cqrs_id, {})[pk] = change.instance_data[REVISION_FIELD] - 1
    tombstones = Tombstone.objects.using(using)
    for cqrs_id, revisions in by_model.items():
        tombstones.remember(cqrs_id, revisions, tombstones.revisions(cqrs_id, revisions))
