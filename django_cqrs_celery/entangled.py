"""Changes that can only be applied together: rows that swap unique values, rows that refer to each other in a circle.

Row by row they would block each other for ever. When a change fails for such a reason, its partners are looked for in
the dead letters; once all are known they are written in one step: the unique constraint holds at every moment, and
foreign keys are satisfied when it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, connections, models, transaction
from django.db.models import Q

from django_cqrs_celery import linking, links, ordering, serialization, upserts
from django_cqrs_celery.constants import Outcome, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.exceptions import ApplyError, MissingParent
from django_cqrs_celery.models import Tombstone
from django_cqrs_celery.registries import ReplicaRegistry

#: Largest group that is applied together.
MAX_GROUP = 200

#: Looks for the change of a row that was set aside: ``(cqrs_id, primary key text) -> change``.
OpenChange = Callable[[str, str], "TransportPayload | None"]


@dataclass
class _Group:
    """The changes found so far, with their rows, by model and primary key."""

    using: str
    open_change: OpenChange
    is_plain: Callable[[Any], bool]
    changes: dict[tuple[Any, Any], TransportPayload] = field(default_factory=dict)
    rows: dict[tuple[Any, Any], dict[str, Any]] = field(default_factory=dict)

    def complete(self, first: TransportPayload) -> bool:
        """Follow what stands in the way of each change until nothing does; False where a partner is not known."""
        pending = [first]
        while pending:
            change = pending.pop()
            model: Any = ReplicaRegistry.models.get(change.cqrs_id)
            if model is None or change.signal_type is SignalType.DELETE or not self.is_plain(model):
                return False
            plan = upserts.plan_of(model)
            row = plan.values(change.instance_data)
            key = (model, row[plan.pk.attname])
            if key in self.changes:
                continue
            if not self._is_wanted(model, key[1], change):
                return False
            self.changes[key], self.rows[key] = change, row
            if len(self.changes) > MAX_GROUP:
                return False
            for partner in self._in_the_way(plan, row):
                if partner is None:
                    return False
                pending.append(partner)
        return len(self.changes) > 1

    def _is_wanted(self, model: Any, pk: Any, change: TransportPayload) -> bool:
        known = upserts.lock(model, [pk], self.using).get(pk)
        if known is None:
            upserts.gate(model, self.using, exclusive=False)
        text = serialization.pk_text(change.instance_pk)
        tombstone = Tombstone.objects.using(self.using).revisions(model.CQRS_ID, [text]).get(text)
        outcome = ordering.decide(
            signal_type=change.signal_type, revision=change.revision, known=known, tombstone=tombstone,
            force=change.force,
        )  # fmt: skip
        return outcome in (Outcome.CREATED, Outcome.UPDATED)

    def _in_the_way(self, plan: upserts.Plan, row: dict[str, Any]) -> Iterator[TransportPayload | None]:
        """Changes of the rows that hold this row's unique values, and of the parents that it lacks."""
        for pk in _holders(plan, row, self.using):
            if (plan.model, pk) not in self.changes:
                yield self._known_change(plan.model, plan.pk, pk)
        for foreign_key in plan.foreign_keys:
            value = row.get(foreign_key.attname)
            parent: Any = foreign_key.related_model
            if value is None or (parent, value) in self.changes:
                continue
            if upserts.missing_parents(foreign_key, [value], self.using):
                yield self._known_change(parent, foreign_key.target_field, value)

    def _known_change(self, model: Any, pk_field: Any, pk: Any) -> TransportPayload | None:
        cqrs_id: Any = getattr(model, "CQRS_ID", None)
        if ReplicaRegistry.models.get(cqrs_id) is not model or not pk_field.primary_key:
            return None
        return self.open_change(cqrs_id, serialization.pk_text(serialization.encode(pk_field, pk)))

    def write(self) -> None:
        """Take the rows out that are there, and write all as they are to be."""
        with _foreign_keys_later(self.using):
            fresh: dict[Any, list[dict[str, Any]]] = {}
            for (model, pk), row in self.rows.items():
                rows = model._base_manager.using(self.using).filter(pk=pk)
                names = [f.attname for f in model._meta.concrete_fields if not isinstance(f, models.GeneratedField)]
                before = rows.values(*names).first() or {}
                rows._raw_delete(self.using)
                fresh.setdefault(model, []).append({**before, **row})
            for model, new_rows in fresh.items():
                upserts.write(upserts.plan_of(model), new_rows, self.using, existing=False, conditional=False)
        for (model, pk), change in self.changes.items():
            wanted = links.decode(model, change.instance_data)
            if wanted:
                linking.write(model, {pk: wanted}, self.using)
        if connections[self.using].vendor != "mysql":
            connections[self.using].check_constraints()


def _holders(plan: upserts.Plan, row: dict[str, Any], using: str) -> list[Any]:
    """Primary keys of other rows that have one of this row's unique values."""
    options = plan.model._meta
    sets: list[tuple[str, ...]] = [(f.name,) for f in options.concrete_fields if f.unique and not f.primary_key]
    sets += [tuple(names) for names in options.unique_together]
    sets += [tuple(constraint.fields) for constraint in options.total_unique_constraints]
    wanted = Q(pk__in=[])
    for names in sets:
        values = {name: row.get(options.get_field(name).attname) for name in names}  # type: ignore[union-attr]
        if all(value is not None for value in values.values()):
            wanted |= Q(**values)
    others = plan.model._base_manager.using(using).filter(wanted).exclude(pk=row[plan.pk.attname])
    return list(others.values_list("pk", flat=True))


@contextmanager
def _foreign_keys_later(using: str) -> Iterator[None]:
    """Check foreign keys after the step; PostgreSQL and SQLite do so by themselves, as Django declares its keys."""
    connection = connections[using]
    if connection.vendor == "mysql":
        with connection.constraint_checks_disabled():
            yield
    else:
        yield


def apply_together(
    change: TransportPayload,
    error: BaseException,
    using: str,
    *,
    open_change: OpenChange,
    is_plain: Callable[[Any], bool],
) -> list[TransportPayload]:
    """Apply a change that failed together with those that it is entangled with; empty where that is no help."""
    if not isinstance(error, (IntegrityError, MissingParent)):
        return []
    group = _Group(using, open_change, is_plain)
    try:
        with transaction.atomic(using=using):
            if not group.complete(change):
                return []
            group.write()
    except (IntegrityError, ApplyError):
        return []
    return list(group.changes.values())
