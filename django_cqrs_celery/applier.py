"""Apply: write a batch of changes into the replica's tables, in one transaction per database.

Fast where it can be: a model with the default hooks and no signal receivers is written set by set. Faithful where it
must be: other models get each change through their hooks, in order. What cannot be applied is handed to ``Aside`` in
the same transaction; the others land.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connections, models, router, transaction
from django.db.models import signals as model_signals

from django_cqrs_celery import (
    cascades,
    conf,
    entangled,
    linking,
    links,
    lone,
    managers,
    serialization,
    timeouts,
    upserts,
)
from django_cqrs_celery.applying import INFRASTRUCTURE, Aside, Item, missing_parent
from django_cqrs_celery.constants import Outcome, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.exceptions import ExpiredChange
from django_cqrs_celery.hookwise import Hooks
from django_cqrs_celery.mixins import ReplicaMixin
from django_cqrs_celery.models import DeadLetter
from django_cqrs_celery.registries import ReplicaRegistry
from django_cqrs_celery.setwise import Table

logger = logging.getLogger("django_cqrs_celery.applier")

# --- models --------------------------------------------------------------------------------------------------------


def is_plain(model: Any) -> bool:
    """Whether a replica model can be written set by set: nothing of the project's runs when a row changes."""
    return (
        issubclass(model, ReplicaMixin)
        and not (model.CQRS_CUSTOM_SERIALIZATION or model.CQRS_NO_DB_OPERATIONS or model._meta.parents)
        and all(_is_default(model, hook) for hook in ("cqrs_save", "cqrs_create", "cqrs_update", "cqrs_delete"))
        and type(model.cqrs) is managers.ReplicaManager
        and model.save is models.Model.save
        and model.delete is models.Model.delete
        and not any(signal.has_listeners(model) for signal in _WRITE_SIGNALS)
        and not any(s.has_listeners(links.through(f)) for f in links.received(model).values() for s in _LINK_SIGNALS)
        and not any(f.has_db_default() for f in upserts.plan_of(model).unfilled)
    )


_WRITE_SIGNALS = (
    model_signals.pre_save, model_signals.post_save, model_signals.pre_delete, model_signals.post_delete,
    model_signals.pre_init, model_signals.post_init,
)  # fmt: skip
_LINK_SIGNALS = (*_WRITE_SIGNALS, model_signals.m2m_changed)


def _is_default(model: Any, hook: str) -> bool:
    own, default = getattr(model, hook), getattr(ReplicaMixin, hook)
    return getattr(own, "__func__", own) is getattr(default, "__func__", default)


def alias_of(model: Any) -> str:
    """Database alias that a replica model is written to."""
    return router.db_for_write(model if issubclass(model, models.Model) else DeadLetter)


def parents_first(found: Iterable[Any]) -> list[Any]:
    """Models in an order in which a foreign key's target comes before its owner, where there is one."""
    pending, ordered = list(dict.fromkeys(found)), []
    while pending:
        free = [m for m in pending if not _targets(m) & (set(pending) - {m})] or pending[:1]
        ordered.extend(free)
        pending = [m for m in pending if m not in free]
    return ordered


def _targets(model: Any) -> set[Any]:
    if not issubclass(model, models.Model):
        return set()
    keys = [f for f in model._meta.concrete_fields if isinstance(f, models.ForeignKey)]
    return {f.related_model for f in [*keys, *links.received(model).values()]}


# --- the batch -----------------------------------------------------------------------------------------------------


def apply(changes: Sequence[TransportPayload], aside: Aside) -> list[Outcome]:
    """Apply changes and say of each what became of it.

    Raises ``OperationalError`` or ``InterfaceError`` when the database is at fault: nothing, or only whole databases'
    parts of the batch, was written then, and the batch can be applied again.
    """
    items = [Item(change, position) for position, change in enumerate(changes)]
    by_alias: dict[str, list[Item]] = {}
    for item in items:
        model = ReplicaRegistry.models.get(item.change.cqrs_id)
        by_alias.setdefault(alias_of(model) if model else router.db_for_write(DeadLetter), []).append(item)
    for alias, group in by_alias.items():
        _Batch(alias, aside).run(group)
    return [item.outcome or Outcome.FAILED for item in items]


def may_be_alone(cqrs_id: str) -> bool:
    """Whether changes with this CQRS_ID could ever be applied by ``apply_alone``."""
    model = ReplicaRegistry.models.get(cqrs_id)
    return model is not None and is_plain(model) and lone.is_possible(model, alias_of(model))


def apply_alone(change: TransportPayload) -> bool:
    """Try the shortest way for a lone change; whether that was it. Raises errors of the infrastructure."""
    model = ReplicaRegistry.models.get(change.cqrs_id)
    if model is None or change.is_expired() or not is_plain(model):
        return False
    using = alias_of(model)
    with timeouts.limited(using):
        return lone.update(model, change, using)


class _Batch:
    """The changes of a batch that go to one database."""

    def __init__(self, using: str, aside: Aside) -> None:
        self.using = using
        self.aside = aside
        #: Changes that waited for rows which have landed meanwhile.
        self.freed: list[TransportPayload] = []

    def run(self, items: list[Item]) -> None:
        """Apply all at once; where the database refuses that, halve until the changes at fault stand alone."""
        if len(items) == 1 and apply_alone(items[0].change):
            items[0].outcome = Outcome.UPDATED
            return
        try:
            with timeouts.limited(self.using), transaction.atomic(using=self.using):
                upserts.begin_write(self.using)
                self._apply(items)
            return
        except INFRASTRUCTURE:
            raise
        except Exception as error:  # of the database, or of a value that its driver cannot even send
            logger.info(
                "A batch of %s changes was refused (%s); it is applied in parts.", len(items), type(error).__name__,
                extra={"action": "cqrs_batch_split"},
            )  # fmt: skip
        with timeouts.limited(self.using), transaction.atomic(using=self.using):
            upserts.begin_write(self.using)
            self._in_parts(items)

    def _in_parts(self, items: list[Item]) -> None:
        for item in items:
            item.outcome = None
        try:
            with transaction.atomic(using=self.using):
                self._apply(items)
                self._check_constraints()
            return
        except INFRASTRUCTURE:
            raise
        except Exception as error:
            if len(items) == 1:
                self.fail(items[0], error)
                if self.freed:
                    freed, self.freed = self.freed, []
                    self._in_parts([Item(change) for change in freed])
                return
        half = len(items) // 2
        self._in_parts(items[:half])
        self._in_parts(items[half:])

    def _check_constraints(self) -> None:
        # MySQL checks at once; the others when the transaction commits, too late to tell which change was at fault.
        connection = connections[self.using]
        if connection.vendor != "mysql":
            connection.check_constraints()

    def fail(self, item: Item, error: BaseException) -> None:
        """Apply a change together with those that it is entangled with, or else set it aside."""
        partners = entangled.apply_together(
            item.change, error, self.using, is_plain=is_plain,
            open_change=lambda cqrs_id, pk: self.aside.open_change(cqrs_id, pk, self.using),
        )  # fmt: skip
        if partners:
            item.outcome = Outcome.UPDATED
            for change in partners:
                revisions = {serialization.pk_text(change.instance_pk): change.revision}
                linking.complete(ReplicaRegistry.models[change.cqrs_id], list(revisions), self.using)
                self.freed += self.aside.landed(change.cqrs_id, revisions, self.using)
            return
        item.outcome = Outcome.FAILED
        self.aside.set_aside(item.change, error, self.using)

    def _apply(self, items: list[Item]) -> None:
        freed = self._apply_once(items)
        while freed:
            items = [Item(change) for change in freed]
            freed = self._apply_once(items)
            for item in items:
                if item.outcome in (Outcome.STALE, Outcome.DUPLICATE):
                    # The row has moved on while the change waited; nothing else would close its letter.
                    change = item.change
                    self.aside.landed(change.cqrs_id, {item.pk_text: change.revision}, self.using)

    def _apply_once(self, items: list[Item]) -> list[TransportPayload]:
        """Apply changes; returns those that can be applied now because of it."""
        by_model = self._sort(items)
        order = parents_first(by_model)
        plain = {model: is_plain(model) for model in order}
        checked = {m: Table(self, m) for m in order if plain[m]}
        freed, self.freed = self.freed, []
        for model in order:
            if plain[model]:
                checked[model].examine(by_model[model])
        for model in reversed(order):
            if plain[model]:
                freed += checked[model].delete()
        for model in order:
            if plain[model]:
                freed += checked[model].upsert()
            else:
                freed += Hooks(self, model).run(by_model[model])
        freed, self.freed = freed + self.freed, []
        return freed

    def _sort(self, items: list[Item]) -> dict[Any, list[Item]]:
        by_model: dict[Any, list[Item]] = {}
        for item in items:
            change = item.change
            try:
                model = ReplicaRegistry.get_model_by_cqrs_id(change.cqrs_id)
                if change.is_expired():
                    raise ExpiredChange("The change is older than CQRS_MESSAGE_TTL of the master allows.")
            except Exception as error:
                self.fail(item, error)
                continue
            if model.CQRS_ONLY_DIRECT_SYNCS and _is_broadcast(change):
                item.outcome = Outcome.SKIPPED
                continue
            by_model.setdefault(model, []).append(item)
        return by_model

    def landed(self, model: Any, items: Iterable[Item]) -> list[TransportPayload]:
        items = list(items)
        revisions = {item.pk_text: item.change.revision for item in items}
        if not revisions:
            return []
        here = [item.pk_text for item in items if item.outcome is not Outcome.DELETED]
        if here and linking.complete(model, here, self.using):
            self.links_wait()
        return self.aside.landed(model.CQRS_ID, revisions, self.using)

    def links_wait(self) -> None:
        self.aside.look_again()

    def set_aside_dependents(self, dependents: Sequence[cascades.Dependent]) -> None:
        """Keep the states of rows that are deleted with their parents, until they are wanted or deleted themselves."""
        states = [(key, row, cascades.state_of(row)) for key, row in dependents]
        cascades.remember_states([change for _, _, change in states if change], self.using)
        for key, row, change in states:
            if change:
                self.aside.set_aside(change, missing_parent(key, getattr(row, key.attname)), self.using)


def _is_broadcast(change: TransportPayload) -> bool:
    """Whether a change is a SYNC that was not sent to the queue of this service alone."""
    return change.signal_type is SignalType.SYNC and (change.queue is None or change.queue != conf.queue())
