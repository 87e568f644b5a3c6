"""Capture of bulk writes: few statements, however many rows.

``QuerySet.update()``, ``bulk_create()``, ``bulk_update()`` and ``delete()`` send no signals of Django's; the querysets
of master models tell of them here. A model whose hooks look at each instance gets its instances read, others do not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from django.db import connections, models, router, transaction
from django.db.models import F
from django.db.models.functions import Now

from django_cqrs_celery import (
    capture,
    conf,
    images,
    managers,
    outbox,
    serialization,
    signals,
    tracker,
    triggers,
    triggers_rules,
)
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD, SignalType
from django_cqrs_celery.fields import MARKED
from django_cqrs_celery.mixins import RawMasterMixin
from django_cqrs_celery.models import OutboxMessage

logger = logging.getLogger("django_cqrs_celery.capture")

#: Rows that are updated and promised by one statement where the database cannot do all at once.
CHUNK = 1000


def start() -> None:
    """Listen to the bulk writes of all master models."""
    identity = "django_cqrs_celery.bulk"
    signals.rows_updating.connect(_on_rows_updating, dispatch_uid=identity)
    signals.rows_deleting.connect(_on_rows_deleting, dispatch_uid=identity)
    signals.rows_creating.connect(_on_rows_creating, dispatch_uid=identity)
    signals.post_bulk_create.connect(_after_bulk_create, dispatch_uid=identity)
    signals.post_update.connect(_after_bulk_update, dispatch_uid=identity)
    signals.sync_requested.connect(_on_sync_requested, dispatch_uid=identity)


def is_plain(master: Any) -> bool:
    """Whether a change of this model needs nothing of its instance: no hook, no function, no previous values."""
    return (
        master.is_sync_instance is RawMasterMixin.is_sync_instance
        and master.get_cqrs_meta is RawMasterMixin.get_cqrs_meta
        and conf.meta_function() is None
        and conf.correlation_function() is None
        and not tracker.tracked_fields(master)
    )


# --- update ----------------------------------------------------------------------------------------------------------


def _on_rows_updating(
    sender: Any, queryset: Any, values: dict[str, Any], using: str, **kwargs: Any
) -> Callable[[], int] | None:
    if not capture.masters_of(sender):
        return None
    if triggers.captured_alone(sender, using) and not (
        _is_done_at_once(sender, queryset, using) and _changes_rows_only(sender, values)
    ):
        return lambda: _update_alone(sender, queryset, values, using)

    def update() -> int:
        with transaction.atomic(using=using, savepoint=False):
            return _update(sender, queryset, values, using)

    return update


def _update_alone(model: Any, queryset: Any, values: dict[str, Any], using: str) -> int:
    # A row that is spread over several tables is updated by several statements.
    is_spread = bool(model._meta.concrete_model._meta.parents)
    with transaction.atomic(using=using, savepoint=False) if is_spread else nullcontext():
        _lock_oldest(model, queryset, values, using)
        count = models.QuerySet.update(queryset, **values)
    if count:
        capture.announce(using)
    return count


def _lock_oldest(model: Any, queryset: Any, values: dict[str, Any], using: str) -> None:
    """Lock rows that are spread over several tables as ``save()`` does, from the oldest on, where Django would not."""
    concrete = model._meta.concrete_model
    parents, query = concrete._meta.get_parent_list(), queryset.query
    if not parents or not connections[using].features.has_select_for_update or query.is_sliced or query.combinator:
        return
    tables = {(model._meta.pk if name == "pk" else model._meta.get_field(name)).model for name in values}
    if tables == {parents[-1]} or tables | {triggers_rules.holder(concrete)} == {concrete}:
        return  # no other table is written before the oldest
    rows = parents[-1]._base_manager.using(using).filter(pk__in=queryset.order_by().values("pk")).order_by("pk")
    no_key = connections[using].features.has_select_for_no_key_update
    list(rows.select_for_update(no_key=no_key).values_list("pk"))


def _update(model: Any, queryset: Any, values: dict[str, Any], using: str) -> int:
    stamped = {UPDATED_FIELD: Now(), REVISION_FIELD: triggers.written(model, using, F(REVISION_FIELD) + 1), **values}
    masters = capture.masters_of(model)
    if _is_done_at_once(model, queryset, using):
        with connections[using].execute_wrapper(_promising(masters[0])):
            count = models.QuerySet.update(queryset, **stamped)
    else:
        count = _update_in_chunks(model, masters, queryset, values, stamped, using)
    if count:
        capture.announce(using)
    return count


def _is_done_at_once(model: Any, queryset: Any, using: str) -> bool:
    """Whether one statement can update rows and promise them: for many rows cheaper than triggers, which take each."""
    masters = capture.masters_of(model)
    return (
        connections[using].vendor == "postgresql"
        and len(masters) == 1
        and not model._meta.concrete_model._meta.parents
        and not queryset.query.is_sliced
        and is_plain(masters[0])
        and _has_plain_key(model)
    )


def _changes_rows_only(model: Any, values: dict[str, Any]) -> bool:
    """Whether an update writes a replicated column, for without one triggers are silent; and leaves the keys alone."""
    names = {name for f in images.replicated_fields(model) for name in (f.name, f.attname)}
    return not names.isdisjoint(values) and {"pk", model._meta.pk.name, model._meta.pk.attname}.isdisjoint(values)


def _has_plain_key(model: Any) -> bool:
    """Whether PostgreSQL's text of a primary key is that of its wire value."""
    field = serialization.value_field(model._meta.pk)
    plain = (models.IntegerField, models.CharField, models.TextField, models.UUIDField)
    return isinstance(field, plain) and serialization.is_builtin(field)


def _promising(master: Any) -> Callable[..., Any]:
    """Turn an UPDATE into one that also writes an outbox row for each row that it changes."""
    quote = connections[master.objects.db].ops.quote_name
    key = quote(str(master._meta.pk.column))
    start = f"UPDATE {quote(master._meta.db_table)} "

    def execute(run: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.startswith(start):
            return run(sql, params, many, context)
        columns = ", ".join(map(quote, ("signal_type", "cqrs_id", "instance_pk")))
        sql = (
            f"WITH cqrs_updated AS ({sql} RETURNING {quote(master._meta.db_table)}.{key})"
            f" INSERT INTO {quote(OutboxMessage._meta.db_table)} ({columns})"
            f" SELECT %s, %s, CAST({key} AS text) FROM cqrs_updated"
        )
        return run(sql, (*(params or ()), SignalType.SAVE.value, master.CQRS_ID), many, context)

    return execute


def _update_in_chunks(
    model: Any, masters: list[Any], queryset: Any, values: dict[str, Any], stamped: dict[str, Any], using: str
) -> int:
    _lock_oldest(model, queryset, values, using)
    rows = queryset.order_by("pk")
    features = connections[using].features
    if features.has_select_for_update:
        rows = rows.select_for_update(of=("self",) if features.has_select_for_update_of else ())
    else:
        OutboxMessage.objects.using(using).filter(pk=-1).update(attempts=0)  # takes the write lock before the read
    pks = list(rows.values_list("pk", flat=True))
    plain = all(map(is_plain, masters))
    count = 0
    for start in range(0, len(pks), CHUNK):
        part = pks[start : start + CHUNK]
        before = [] if plain else list(model._base_manager.using(using).filter(pk__in=part))
        chosen = queryset if queryset.query.annotations else model._base_manager.using(using)
        count += models.QuerySet.update(chosen.filter(pk__in=part), **stamped)
        if plain:
            for master in masters:
                outbox.record_saves(master.CQRS_ID, [capture.key_of(master, pk) for pk in part], using)
        else:
            _promise_updates(masters, tracker.as_updated(model, before, set(values), using), using)
    return count


def _promise_updates(masters: list[Any], instances: Sequence[Any], using: str) -> None:
    wanted = [(instance, tracker.take_noted(instance)) for instance in instances if instance.is_sync_instance()]
    for master in masters:
        promises = [capture.promise_of(master, instance, SignalType.SAVE, previous) for instance, previous in wanted]
        outbox.record_many(promises, using)


def _after_bulk_update(sender: Any, instances: Sequence[Any], using: str | None = None, **kwargs: Any) -> None:
    alias = using or router.db_for_write(sender)
    if not triggers.captured_alone(sender, alias):
        _promise_updates(capture.masters_of(sender), instances, alias)
    if instances:
        capture.announce(alias)


# --- create ----------------------------------------------------------------------------------------------------------


def _on_rows_creating(
    sender: Any, instances: Sequence[Any], using: str, conflicts: managers.Conflicts, **kwargs: Any
) -> None:
    if triggers.captures(sender, using) and not triggers.captured_alone(sender, using):
        for instance in instances:
            # Without a key after the INSERT, a row can be told of by triggers alone.
            instance.__dict__[MARKED] = instance.pk is not None or not conflicts.ignores


def _after_bulk_create(sender: Any, instances: Sequence[Any], using: str | None = None, **kwargs: Any) -> None:
    updates, ignores = managers.conflicts.get()
    alias = using or router.db_for_write(sender)
    if triggers.captured_alone(sender, alias):
        if instances:
            capture.announce(alias)
        return
    known = [instance for instance in instances if instance.pk is not None]
    if len(known) < len(instances):
        logger.warning(
            "%s rows of %s have no key after bulk_create (ignore_conflicts leaves it out): they do not replicate yet.",
            len(instances) - len(known), sender._meta.label, extra={"action": "cqrs_bulk_without_key"},
        )  # fmt: skip
    for master in capture.masters_of(sender):
        if updates:
            # The row of a conflict got the values of the new one, its revision as well or not: lift all above what was.
            pks = [instance.pk for instance in known]
            for start in range(0, len(pks), CHUNK):
                rows = master._base_manager.using(alias).filter(pk__in=pks[start : start + CHUNK])
                rows.update(**{REVISION_FIELD: triggers.written(master, alias, F(REVISION_FIELD) + 1)})
        if is_plain(master):
            outbox.record_saves(master.CQRS_ID, [capture.key(master, instance) for instance in known], alias)
        else:
            outbox.record_many(_promises(master, known), alias)
        if not ignores:
            capture.continue_revisions(master, known, alias)
    if known:
        capture.announce(alias)


def _promises(master: Any, instances: Sequence[Any]) -> list[outbox.Promise]:
    return [
        capture.promise_of(master, instance, SignalType.SAVE, tracker.previous_values(instance, created=True))
        for instance in instances
        if instance.is_sync_instance()
    ]


# --- delete and sync -------------------------------------------------------------------------------------------------


@contextmanager
def _deletes(sender: Any, queryset: Any, using: str) -> Iterator[None]:
    rows = queryset.order_by().values_list("pk", REVISION_FIELD)
    features = connections[using].features
    if features.has_select_for_update:
        rows = rows.select_for_update(of=("self",) if features.has_select_for_update_of else ())
    else:
        OutboxMessage.objects.using(using).filter(pk=-1).update(attempts=0)  # takes the write lock before the read
    going_on = capture.Deleting({(sender, pk): revision for pk, revision in rows})
    token = capture.deleting.set(going_on)
    try:
        yield
    finally:
        capture.deleting.reset(token)
    outbox.record_many(going_on.promises, using)
    outbox.complete_deletes(going_on.additions, using)


def _on_rows_deleting(sender: Any, queryset: Any, using: str, **kwargs: Any) -> Any:
    query = queryset.query
    nested = capture.deleting.get() is not None
    if nested or query.is_sliced or query.distinct or query.combinator or not capture.masters_of(sender):
        return None  # Django has its own word on some of these, and the deletes are promised one by one
    if triggers.captured_alone(sender, using):
        return None
    return _deletes(sender, queryset._chain(), using)


def _on_sync_requested(
    sender: Any, instances: Sequence[Any], using: str, queue: str | None = None, **kwargs: Any
) -> None:
    for master in capture.masters_of(sender)[:1]:
        wanted = [instance for instance in instances if instance.is_sync_instance()]
        promises = [capture.promise_of(master, i, SignalType.SYNC, queue=queue) for i in wanted]
        outbox.record_many(promises, using)
    capture.announce(using)
