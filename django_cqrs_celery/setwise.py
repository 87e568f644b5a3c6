"""The fast way of applying: whole sets of rows of one table, with few statements."""

from __future__ import annotations

from typing import Any

from django.db import connections, models

from django_cqrs_celery import cascades, linking, links, ordering, recordsets, serialization, upserts
from django_cqrs_celery.applying import Batch, Gaps, Item, is_newer, missing_parent
from django_cqrs_celery.constants import Outcome, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.exceptions import ApplyError
from django_cqrs_celery.models import Tombstone


class Table:
    """Set-based path: the newest change of each row, compared with locked rows, written by few statements."""

    def __init__(self, batch: Batch, model: Any) -> None:
        self.batch, self.model, self.using = batch, model, batch.using
        self.plan = upserts.plan_of(model)
        self.unpacking = recordsets.for_plan(self.plan, batch.using)
        self.has_links = bool(links.received(model))
        self.created: list[Item] = []
        self.updated: list[Item] = []
        self.deleted: list[Item] = []
        self.tombstones: dict[str, int] = {}
        #: Changes of the batch that a newer one of the same row has made needless.
        self.overtaken: dict[Any, list[Item]] = {}
        self.missing: set[Item] = set()

    def examine(self, items: list[Item]) -> None:
        """Decode, lock, compare: afterwards it is known what each change does."""
        newest: dict[Any, Item] = {}
        for item in items:
            try:
                self._decode(item)
            except ApplyError as error:
                self.batch.fail(item, error)
                continue
            other = newest.get(item.pk)
            if other is None or is_newer(item.change, other.change):
                newest[item.pk] = item
                item = other  # type: ignore[assignment]
            if item is not None:
                item.outcome = Outcome.STALE
                self.overtaken.setdefault(item.pk, []).append(item)
        if not newest:
            return
        pks = sorted(newest)
        known = upserts.lock(self.model, pks, self.using)
        absent = [pk for pk in pks if pk not in known]
        if absent:
            deletes = any(newest[pk].change.signal_type is SignalType.DELETE for pk in absent)
            upserts.gate(self.model, self.using, exclusive=deletes)
            if deletes:
                known.update(upserts.lock(self.model, absent, self.using))
        # A row that is there is newer than its tombstone: only of others is it asked what was deleted, and by deletes.
        texts = [
            newest[pk].pk_text for pk in pks
            if pk not in known or newest[pk].change.signal_type is SignalType.DELETE
        ]  # fmt: skip
        if texts:
            self.tombstones = Tombstone.objects.using(self.using).revisions(self.model.CQRS_ID, texts)
        gaps = Gaps()
        for pk in pks:
            item = newest[pk]
            item.outcome = ordering.decide(
                signal_type=item.change.signal_type, revision=item.change.revision, known=known.get(pk),
                tombstone=self.tombstones.get(item.pk_text), force=item.change.force,
            )  # fmt: skip
            gaps.note(item.change, known.get(pk))
            lists = {
                Outcome.CREATED: self.created, Outcome.UPDATED: self.updated, Outcome.DELETED: self.deleted,
            }  # fmt: skip
            if item.outcome in lists:
                lists[item.outcome].append(item)
        gaps.report(self.model.CQRS_ID)
        self.missing = {item for item in self.deleted if item.pk not in known}

    def _decode(self, item: Item) -> None:
        if item.change.signal_type is SignalType.DELETE:
            item.pk = serialization.decode(self.plan.pk, item.change.instance_pk)
            return
        if self.has_links:
            item.links = links.decode(self.model, item.change.instance_data)
        wire = self.unpacking.row(item.change.instance_data) if self.unpacking else None
        item.is_wire = wire is not None
        item.values = self.plan.values(item.change.instance_data) if wire is None else wire
        pk = item.values.get(self.plan.pk.attname)
        if pk is None:
            raise ApplyError(f"The change has no value for {self.plan.pk}, the replica's primary key.")
        item.pk = serialization.decode(self.plan.pk, pk) if item.is_wire and type(pk) is not int else pk

    def delete(self) -> list[TransportPayload]:
        """Delete rows and remember their revisions."""
        if not self.deleted:
            return []
        present = [item.pk for item in self.deleted if item not in self.missing]
        if present:
            dependents = cascades.lock_dependents(self.model, present, self.using)
            kept = linking.about_to_go(self.model, present, dependents, self.using)
            upserts.delete(self.model, present, self.using)
            linking.keep_broken(kept, self.using)
            self.batch.set_aside_dependents(dependents)
        revisions = {item.pk_text: item.change.revision for item in self.deleted}
        linking.forget(self.model, list(revisions), self.using)
        Tombstone.objects.using(self.using).remember(self.model.CQRS_ID, revisions, self.tombstones)
        return self.batch.landed(self.model, self.deleted)

    def upsert(self) -> list[TransportPayload]:
        """Insert and update rows whose parents are here; set the others aside."""
        instead = self._drop_orphans()
        self._write(self.created, existing=False)
        self._write(self.updated, existing=True)
        self._take_back_resurrected()
        if self.has_links:
            self._link()
        return [*instead, *self.batch.landed(self.model, [*self.created, *self.updated])]

    def _take_back_resurrected(self) -> None:
        """Undo inserts of rows that were created and deleted elsewhere since the tombstones were read.

        Only now, with the row written, would another delete of it have to wait for this transaction.
        """
        if not self.created or not connections[self.using].features.has_select_for_update:
            return
        texts = [item.pk_text for item in self.created if not item.change.force]
        tombstones = Tombstone.objects.using(self.using).revisions(self.model.CQRS_ID, texts)
        for item in self.created:
            if tombstones.get(item.pk_text, item.change.revision - 1) >= item.change.revision:
                rows = self.model._base_manager.using(self.using)
                rows.filter(pk=item.pk, cqrs_revision=item.change.revision)._raw_delete(self.using)
                item.outcome = Outcome.STALE
        self.created = [item for item in self.created if item.outcome is Outcome.CREATED]

    def _link(self) -> None:
        """Write the links of rows that are now as the changes of this batch want them."""
        with_links = [item for item in self.created if item.links]
        # Another worker may have inserted a newer one of these rows, which then has links of its own.
        now = upserts.lock(self.model, sorted(item.pk for item in with_links), self.using) if with_links else {}
        mine = [item for item in with_links if now.get(item.pk) == item.change.revision]
        wanted = {item.pk: item.links for item in [*mine, *self.updated] if item.links}
        if wanted and linking.write(self.model, wanted, self.using):
            self.batch.links_wait()

    def _write(self, items: list[Item], *, existing: bool) -> None:
        # A row that is there is locked: whether it is overwritten has been decided. Another worker may have inserted
        # one that was not.
        wire = [item.values for item in items if item.is_wire]
        if wire and self.unpacking:
            recordsets.write(self.unpacking, wire, self.using, conditional=not existing)
        rows = [item.values for item in items if not item.is_wire]
        if rows:
            upserts.write(self.plan, rows, self.using, existing=existing, conditional=not existing)

    def _drop_orphans(self) -> list[TransportPayload]:
        """Set aside what lacks its parent; returns the changes of the batch that count again because of it."""
        instead: list[TransportPayload] = []
        dropped = True
        while dropped:
            dropped = False
            for key in self.plan.foreign_keys:
                items = [i for i in (*self.created, *self.updated) if i.values.get(key.attname) is not None]
                missing = upserts.missing_parents(key, [i.values[key.attname] for i in items], self.using)
                if key.related_model is self.model:
                    missing -= {i.values.get(key.target_field.attname) for i in (*self.created, *self.updated)}
                gone = [item for item in items if item.values[key.attname] in missing]
                for item in gone:
                    dropped = True
                    self._set_aside_orphan(item, key)
                    if item.outcome is Outcome.FAILED:
                        instead += [other.change for other in self.overtaken.pop(item.pk, ())]
                self.created = [i for i in self.created if i not in gone]
                self.updated = [i for i in self.updated if i not in gone]
        return instead

    def _set_aside_orphan(self, item: Item, key: models.ForeignKey) -> None:
        self.batch.fail(item, missing_parent(key, item.values[key.attname]))
