"""The faithful way of applying: each change through the hooks and signals of its model, in order."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, connections, models, transaction

from django_cqrs_celery import (
    cascades,
    linking,
    links,
    managers,
    ordering,
    preloaded,
    serialization,
    statements,
    upserts,
)
from django_cqrs_celery.applying import INFRASTRUCTURE, Batch, Gaps, Item, missing_parent
from django_cqrs_celery.constants import Outcome, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.exceptions import ApplyError, HookRefused
from django_cqrs_celery.mixins import ReplicaMixin
from django_cqrs_celery.models import Tombstone


class _Overtaken(Exception):
    """The row was created and deleted elsewhere while it was being created here."""


def _reads_rows(model: Any) -> bool:
    """Whether the default code of the hooks reads and locks the row that it is to change."""
    return (
        model.cqrs_save.__func__ is ReplicaMixin.cqrs_save.__func__  # type: ignore[attr-defined]
        and type(model.cqrs).save_instance is managers.ReplicaManager.save_instance
    )


def _is_there(row: models.Model, using: str) -> bool:
    return type(row)._base_manager.using(using).filter(pk=row.pk).exists()


class Hooks:
    """Faithful path: each change through the hooks of its model, in order, each in a savepoint of its own."""

    def __init__(self, batch: Batch, model: Any) -> None:
        self.batch, self.model, self.using = batch, model, batch.using
        self.is_table = issubclass(model, models.Model) and not model.CQRS_NO_DB_OPERATIONS
        self.has_links = self.is_table and not model.CQRS_CUSTOM_SERIALIZATION and bool(links.received(model))
        self.has_keys = self.has_links or (self.is_table and bool(upserts.plan_of(model).foreign_keys))
        self.is_referred_to = self.is_table and bool(model._meta.related_objects)
        self.known: dict[Any, int] = {}
        self.gaps = Gaps()
        self.tombstones: dict[str, int] = {}

    def run(self, items: list[Item]) -> list[TransportPayload]:
        """Apply the changes in the order of their revisions."""
        freed = self._run(items)
        self.gaps.report(self.model.CQRS_ID)
        return freed

    def _run(self, items: list[Item]) -> list[TransportPayload]:
        ready = []
        for item in items:
            try:
                if self.is_table:
                    item.pk = serialization.decode(self.model._meta.pk, item.change.instance_pk)
                ready.append(item)
            except ApplyError as error:
                self.batch.fail(item, error)
        ready.sort(key=lambda item: item.change.revision)
        if not self.is_table or not ready:
            return self.batch.landed(self.model, self._each(ready))
        rows = self._prepare(ready)
        with preloaded.offered(rows), statements.watched(self.model, self.using, rows) as watch:
            landed = self._each(ready, watch)
        return self.batch.landed(self.model, landed)

    def _each(self, items: list[Item], watch: statements.Watch | None = None) -> list[Item]:
        """Apply the changes one by one; returns the last one of each row that has landed."""
        landed: dict[str, Item] = {}
        for item in items:
            if watch is not None:
                watch.expect(item.pk)
            if self._one(item):
                landed[item.pk_text] = item
        return list(landed.values())

    def _prepare(self, items: list[Item]) -> preloaded.Rows | None:
        """Lock the rows; returns them where the hooks will ask for them."""
        pks = sorted({item.pk for item in items})
        rows: dict[Any, Any] = {}
        reads = _reads_rows(self.model)
        self.known = self._lock(pks, rows) if reads else upserts.lock(self.model, pks, self.using)
        absent = [pk for pk in pks if pk not in self.known]
        if absent:
            deletes = any(i.change.signal_type is SignalType.DELETE for i in items if i.pk not in self.known)
            upserts.gate(self.model, self.using, exclusive=deletes)
            self.known.update(self._lock(absent, rows) if reads else upserts.lock(self.model, absent, self.using))
        deleted = {item.pk for item in items if item.change.signal_type is SignalType.DELETE}
        texts = [item.pk_text for item in items if item.pk not in self.known or item.pk in deleted]
        if texts:
            self.tombstones = Tombstone.objects.using(self.using).revisions(self.model.CQRS_ID, texts)
        if reads and rows.keys() <= set(pks):  # else the database has other spellings of a key for the same
            rows = dict.fromkeys(pks) | rows
        return preloaded.Rows(self.model, self.using, rows) if reads else None

    def _lock(self, pks: list[Any], rows: dict[Any, Any]) -> dict[Any, int]:
        """Lock rows as ``upserts.lock`` does, and note the instances."""
        found: dict[Any, Any] = {row.pk: row for row in upserts.locked_rows(self.model, pks, self.using)}
        rows.update(found)
        return {pk: row.cqrs_revision for pk, row in found.items()}

    def _one(self, item: Item) -> bool:
        change = item.change
        known = self.known.get(item.pk) if self.is_table else None
        outcome = ordering.decide(
            signal_type=change.signal_type, revision=change.revision, known=known,
            tombstone=self.tombstones.get(item.pk_text), force=change.force,
        )  # fmt: skip
        self.gaps.note(change, known)
        if outcome in (Outcome.STALE, Outcome.DUPLICATE):
            item.outcome = outcome
            return False
        try:
            with transaction.atomic(using=self.using):
                self._call(item, outcome)
        except INFRASTRUCTURE:
            raise
        except _Overtaken:
            item.outcome = Outcome.STALE
            return False
        except Exception as error:  # a hook is the project's code: whatever it raises is this change's failure
            if isinstance(error, IntegrityError) and self._has_come(item):
                return self._one(item)
            self.batch.fail(item, error)
            return False
        item.outcome = outcome
        return True

    def _has_come(self, item: Item) -> bool:
        """Whether a row that was not there has come from another worker meanwhile; it is locked and known then."""
        if not self.is_table or item.pk in self.known:
            return False
        self.known.update(upserts.lock(self.model, [item.pk], self.using))
        return item.pk in self.known

    def _call(self, item: Item, outcome: Outcome) -> None:
        change, model = item.change, self.model
        # As hooks are written for django-cqrs: ``sync`` is given only where it is true, and ``meta`` is a dict.
        meta = {"meta": {} if change.meta is None else copy.deepcopy(change.meta)} if model.CQRS_META else {}
        sync = {"sync": True} if change.signal_type is SignalType.SYNC else {}
        if outcome is Outcome.DELETED:
            answer = self._delete(item, meta)
        else:
            wanted = links.decode(model, change.instance_data) if self.has_links else {}
            self._need_parents(change)
            previous = None if change.previous_data is None else _copy(change.previous_data)
            answer = model.cqrs_save(_copy(change.instance_data), previous_data=previous, **sync, **meta)
        if not answer:
            hook = "cqrs_delete" if outcome is Outcome.DELETED else "cqrs_save"
            raise HookRefused(f"{model.__name__}.{hook}() returned {answer!r}.")
        if not self.is_table:
            return
        if outcome is not Outcome.DELETED and wanted:
            self._link(item, wanted)
        checked = self.has_keys or (outcome is Outcome.DELETED and self.is_referred_to)
        if checked and connections[self.using].vendor == "postgresql":
            # Foreign keys are checked at the commit there, too late to tell which change was at fault.
            connections[self.using].check_constraints()
        if outcome is Outcome.DELETED:
            Tombstone.objects.using(self.using).remember(
                model.CQRS_ID, {item.pk_text: change.revision}, self.tombstones
            )
            self.tombstones[item.pk_text] = change.revision
            self.known.pop(item.pk, None)
        else:
            if outcome is Outcome.CREATED and not change.force:
                later = Tombstone.objects.using(self.using).revisions(model.CQRS_ID, [item.pk_text])
                if later.get(item.pk_text, change.revision - 1) >= change.revision:
                    raise _Overtaken
            self.known[item.pk] = change.revision

    def _delete(self, item: Item, meta: dict[str, Any]) -> Any:
        """Call the hook; what the row takes along is kept, as far as it goes."""
        model = self.model
        if not self.is_table:
            return model.cqrs_delete(_with_pk(model, item.change, False), **meta)
        taken = cascades.lock_dependents(model, [item.pk], self.using)
        kept = linking.about_to_go(model, [item.pk], taken, self.using)
        answer = model.cqrs_delete(_with_pk(model, item.change, True), **meta)
        gone = [(key, row) for key, row in taken if not _is_there(row, self.using)]
        linking.keep_broken(kept, self.using)
        linking.forget(model, [item.pk_text], self.using)
        self.batch.set_aside_dependents(gone)
        return answer

    def _link(self, item: Item, wanted: linking.Wanted) -> None:
        """Set the links of the row that the hook has written, if it has."""
        row = self.model._base_manager.using(self.using).filter(pk=item.pk).first()
        if row is not None and linking.set_by_hand(row, wanted, self.using):
            self.batch.links_wait()

    def _need_parents(self, change: TransportPayload) -> None:
        if not self.is_table or self.model.CQRS_CUSTOM_SERIALIZATION:
            return
        plan = upserts.plan_of(self.model)
        if not plan.foreign_keys:
            return
        values = plan.values(change.instance_data)
        for key in plan.foreign_keys:
            value = values.get(key.attname)
            itself = key.related_model is self.model and value == values.get(plan.pk.attname)
            if value is not None and not itself and upserts.missing_parents(key, [value], self.using):
                raise missing_parent(key, value)


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    """Wire values that a hook may change: the change itself must stay whole, to be set aside where the hook fails."""
    return {k: copy.deepcopy(value) if isinstance(value, (dict, list)) else value for k, value in data.items()}


def _with_pk(model: Any, change: TransportPayload, is_table: bool) -> dict[str, Any]:
    """The data of a delete; the key is also there as ``id``, and under the name that the replica knows it by."""
    data = _copy(change.instance_data)
    if is_table:
        data.setdefault(managers.master_pk_name(model, data), change.instance_pk)
    data.setdefault("id", change.instance_pk)
    if "custom" in data:
        data["custom"] = serialization.unguard(data["custom"])
    return data
