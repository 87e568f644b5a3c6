"""Capture: every committed change of a master row leaves an outbox row, written in the same transaction.

Django's signals tell of single saves and deletes (fixtures and cascades among them); the managers tell of bulk writes
by the project's own signals. The revision is raised by the UPDATE itself, once per transaction and row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any

import django
from asgiref.sync import SyncToAsync
from django.db import connections, models
from django.db.models import Case, Exists, F, Value, When
from django.db.models.signals import class_prepared, post_delete, post_save, pre_delete, pre_save
from django.utils import timezone

from django_cqrs_celery import conf, images, outbox, serialization, signals, tracker, triggers, triggers_rules
from django_cqrs_celery.constants import NO_QUEUE, REVISION_FIELD, UPDATED_FIELD, SignalType
from django_cqrs_celery.dataclasses import dumps
from django_cqrs_celery.fields import CAPTURED, MARKED, NEXT_REVISION, marked
from django_cqrs_celery.mixins import RawMasterMixin
from django_cqrs_celery.models import OutboxMessage
from django_cqrs_celery.outbox import Promise
from django_cqrs_celery.registries import MasterRegistry

#: What was so before a save: the revision is known, the key is yet to be counted up, triggers capture alone.
_BEFORE = "_cqrs_before_save"
_DELETED = "_cqrs_deleted_revision"
_ABSENT = "_cqrs_absent_pk"
_MEMORY = "_cqrs_capture"


class _Transaction:
    """What this connection has recorded in the transaction that is open.

    ``recorded`` finds the outbox row of a model's row that was saved before in the transaction: a second save does not
    raise the revision again, if that outbox row is still there (a savepoint may have taken it back).
    """

    def __init__(self, hooks: Any) -> None:
        # Django makes a new list of hooks whenever a transaction ends or a savepoint is rolled back.
        self.hooks = hooks
        self.recorded: dict[tuple[type, str], int] = {}
        self.announced: set[tuple[Any, ...]] = set()
        #: Rows whose revision was raised because their links have changed.
        self.linked: set[tuple[type, str]] = set()


def _transaction(using: str) -> _Transaction:
    connection = connections[using]
    hooks = connection.run_on_commit
    memory = connection.__dict__.get(_MEMORY)
    # Without commit_on_exit the project commits by hand, and nothing tells when.
    if memory is None or memory.hooks is not hooks or not connection.commit_on_exit:
        memory = connection.__dict__[_MEMORY] = _Transaction(hooks)
    return memory


def announce(using: str) -> None:
    """Wake the dispatcher after the commit: once for each stack of savepoints, so that none can take it back alone."""
    if not connections[using].in_atomic_block:
        outbox.announce(using)
        return
    memory = _transaction(using)
    stack = tuple(connections[using].savepoint_ids)
    if stack not in memory.announced:
        memory.announced.add(stack)
        outbox.announce(using)


def not_raised(master: type[models.Model], pks: Iterable[Any], using: str) -> set[Any]:
    """Rows that the open transaction has not given a new revision yet."""
    memory = _transaction(using)
    keys: dict[Any, Any] = {pk: (master._meta.concrete_model, str(pk)) for pk in pks}
    saved = {pk: memory.recorded[key] for pk, key in keys.items() if key in memory.recorded}
    # As with saves: the outbox row tells whether a savepoint has taken the save back.
    promised = OutboxMessage.objects.using(using).filter(pk__in=saved.values()) if saved else ()
    ids = {row.pk for row in promised}
    return {pk for pk, key in keys.items() if key not in memory.linked and saved.get(pk) not in ids}


def raised(master: type[models.Model], pks: Iterable[Any], using: str, *, promised: bool = False) -> None:
    """Remember rows that were given a new revision (``promised``: by triggers), until that is taken back or kept."""
    memory, concrete = _transaction(using), master._meta.concrete_model
    keys: list[Any] = [(concrete, str(pk)) for pk in pks]
    if promised:
        memory.recorded.update({key: 0 for key in keys if key not in memory.recorded})
    else:
        memory.linked.update(keys)


# --- which models --------------------------------------------------------------------------------------------------


def masters_of(model: type[models.Model]) -> list[Any]:
    """Registered master models whose row a save of ``model`` writes: itself, and parents of a multi-table model."""
    registered = MasterRegistry.models
    lineage: list[Any] = [m for m in model.__mro__ if getattr(m, "CQRS_ID", None)]
    return [m for m in lineage if registered.get(m.CQRS_ID) == m and m.CQRS_PRODUCE]


def connect(model: type[models.Model]) -> None:
    """Listen to the saves and deletes of one model class."""
    identity = f"django_cqrs_celery.capture.{model._meta.label}"
    pre_save.connect(_before_save, sender=model, dispatch_uid=identity)
    post_save.connect(_after_save, sender=model, dispatch_uid=identity)
    pre_delete.connect(_before_delete, sender=model, dispatch_uid=identity)
    post_delete.connect(_after_delete, sender=model, dispatch_uid=identity)


def start() -> None:
    """Listen to every master model there is, and to those that come later."""
    from django.apps import apps

    for model in apps.get_models(include_auto_created=True):
        _connect_if_master(model)
    signals.master_registered.connect(_on_master_registered, dispatch_uid="django_cqrs_celery.capture")
    class_prepared.connect(_on_class_prepared, dispatch_uid="django_cqrs_celery.capture")


def _connect_if_master(model: type[models.Model]) -> None:
    if issubclass(model, RawMasterMixin) and not model._meta.abstract and masters_of(model):
        connect(model)


def _on_master_registered(sender: Any, **kwargs: Any) -> None:
    connect(sender)


def _on_class_prepared(sender: Any, **kwargs: Any) -> None:
    _connect_if_master(sender)


# --- saves ---------------------------------------------------------------------------------------------------------


def key_of(model: type[models.Model], pk: Any) -> str:
    """Primary key as the text under which the outbox knows a row."""
    return serialization.pk_text(images.wire_pk(model, pk))


def key(model: type[models.Model], instance: models.Model) -> str:
    """Primary key of an instance as the text under which the outbox knows its row."""
    return key_of(model, instance.pk)


def _before_save(sender: Any, instance: Any, raw: bool, using: str, **kwargs: Any) -> None:
    found, captured, alone = instance.__dict__.get(CAPTURED, (None, False, False))
    if found != using:
        captured = triggers.captures(sender, using)
        alone = captured and not triggers_rules.has_hooks(sender)
    instance.__dict__[_BEFORE] = not instance._state.adding, instance.pk is None, alone
    if raw:
        if alone:
            return
        # A fixture brings a revision of its own, and Django writes it as it is: keep it above the row's.
        known = _locked_revision(sender, instance, using)
        if known is not None:
            instance.cqrs_revision = max(known + 1, instance.cqrs_revision or 0)
        if captured:
            instance.cqrs_revision = marked(instance.cqrs_revision or 0)
        return
    instance.__dict__[MARKED] = captured and not alone
    if instance.pk is None:
        return
    memory, row = _transaction(using), (sender._meta.concrete_model, str(instance.pk))
    earlier = memory.recorded.get(row)
    if row in memory.linked:
        instance.__dict__[NEXT_REVISION] = F(REVISION_FIELD)
    elif earlier is not None and alone:
        # PostgreSQL's trigger sees that it has raised this row's revision; elsewhere it must be told to keep silent.
        is_seen = connections[using].vendor == "postgresql" or bool(sender._meta.concrete_model._meta.parents)
        instance.__dict__[MARKED] = not is_seen
        instance.__dict__[NEXT_REVISION] = F(REVISION_FIELD) + Value(1) if is_seen else F(REVISION_FIELD)
    elif earlier is not None:
        promised = OutboxMessage.objects.using(using).filter(
            pk=earlier, cqrs_id=masters_of(sender)[0].CQRS_ID, instance_pk=key(sender, instance)
        )
        instance.__dict__[NEXT_REVISION] = Case(
            When(Exists(promised), then=F(REVISION_FIELD)), default=F(REVISION_FIELD) + Value(1)
        )


def _after_save(
    sender: Any, instance: Any, created: bool, raw: bool, using: str, update_fields: Any = None, **kwargs: Any
) -> None:
    repeated = instance.__dict__.pop(NEXT_REVISION, None) is not None
    known, counted, alone = instance.__dict__.pop(_BEFORE, (False, False, False))
    counted = counted and created
    by_database = not instance.__dict__.pop(MARKED, False) and alone
    _unmark(instance)
    if raw and hasattr(instance.__dict__.get(UPDATED_FIELD), "resolve_expression"):
        del instance.__dict__[UPDATED_FIELD]  # a fixture has said nothing of it: what the database wrote is read
    previous = tracker.previous_values(instance, created=created, only=update_fields)
    if update_fields is not None:
        tracker.saved(instance, update_fields)
        if REVISION_FIELD not in update_fields:
            return
    if not created and not raw:
        _note_revision(instance, known, repeated, using)
    if previous or not created:
        previous = tracker.note(instance, previous, since=connections[using].run_on_commit)
    if by_database:
        if created and not counted:
            # Only the database knows whether there was a row of this key.
            _leave_to_database(instance, using, REVISION_FIELD)
        elif not created and sender._meta.concrete_model._meta.parents:
            # Each of its tables may have raised it.
            _leave_to_database(instance, using, REVISION_FIELD, UPDATED_FIELD)
        if connections[using].in_atomic_block:
            _transaction(using).recorded[(sender._meta.concrete_model, str(instance.pk))] = 0
        announce(using)
        return
    if not instance.is_sync_instance():
        for master in masters_of(sender) if created else ():
            # It may be replicated later, and must be newer then than the row that had its key.
            continue_revisions(master, [instance], using)
        return
    for master in masters_of(sender):
        # A key that the database counts up is hardly ever that of a deleted row: this is looked up at publishing.
        revision = outbox.UNCHECKED if counted else None
        promise = promise_of(master, instance, SignalType.SAVE, previous, revision=revision)
        identity, tombstone = outbox.record(promise, using, created=created and not counted)
        if tombstone is not None and tombstone >= instance.cqrs_revision:
            instance.cqrs_revision = tombstone + 1
            master._base_manager.using(using).filter(pk=instance.pk).update(
                cqrs_revision=triggers.written(master, using, tombstone + 1)
            )
        if identity is not None:
            _transaction(using).recorded[(sender._meta.concrete_model, str(instance.pk))] = identity
    announce(using)


def _leave_to_database(instance: Any, using: str, *names: str) -> None:
    """Have fields read when they are asked for; at once for asynchronous code, which cannot do that."""
    for name in names:
        instance.__dict__.pop(name, None)
    if getattr(SyncToAsync.threadlocal, "main_event_loop", None) is not None:
        instance.refresh_from_db(using=using, fields=names)


def _unmark(instance: Any) -> None:
    # Where the database gives back the value that was written, or Django was made to write what the instance holds.
    value = instance.__dict__.get(REVISION_FIELD)
    if isinstance(value, int) and value < 0:
        instance.cqrs_revision = marked(value)


def _note_revision(instance: Any, known: bool, repeated: bool, using: str) -> None:
    """Let the instance show the revision that the UPDATE made of the one it was loaded with."""
    if django.VERSION >= (6, 0):
        return  # Django has the new value from the UPDATE itself, or reads it when asked for
    value = instance.__dict__.get(REVISION_FIELD)
    if known and isinstance(value, int):
        instance.cqrs_revision = value if repeated else value + 1
    else:
        # It was made in Python under the key of an existing row.
        _leave_to_database(instance, using, REVISION_FIELD)


def promise_of(
    master: Any,
    instance: Any,
    signal_type: SignalType,
    previous: dict[str, Any] | None = None,
    *,
    revision: int | None = None,
    data: dict[str, Any] | None = None,
    queue: str | None = None,
) -> Promise:
    """The outbox row of a change, with what the hooks of the instance say of it."""
    wire_pk = images.wire_pk(master, instance.pk)
    fields = {field.name: field for field in tracker.tracked_fields(master)} if previous else {}
    # Of a multi-table row's previous values each of its tables gets its own.
    encoded = {n: serialization.encode(fields[n], value) for n, value in (previous or {}).items() if n in fields}
    return Promise(
        signal_type=signal_type,
        cqrs_id=master.CQRS_ID,
        instance_pk=serialization.pk_text(wire_pk),
        revision=revision,
        instance_data=None if data is None else dumps(data),
        previous_data=dumps(encoded) if encoded else None,
        meta=_meta(instance, signal_type, encoded, data),
        correlation_id=_correlation_id(signal_type, master.CQRS_ID, instance.pk, queue),
        queue=queue,
    )


def _meta(
    instance: Any, signal_type: SignalType, previous: dict[str, Any] | None, data: dict[str, Any] | None
) -> str | None:
    if type(instance).get_cqrs_meta is RawMasterMixin.get_cqrs_meta and conf.meta_function() is None:
        return None
    if data is None:
        data = instance.to_cqrs_dict(sync=signal_type is SignalType.SYNC)
    if not previous and not (signal_type is SignalType.SAVE and tracker.tracks(type(instance))):
        previous = None  # nothing is tracked, where {} says that nothing of it has changed
    meta = instance.get_cqrs_meta(instance_data=data, previous_data=previous, signal_type=signal_type)
    return None if meta is None or meta == {} else dumps(serialization.plain(meta))


def _correlation_id(signal_type: SignalType, cqrs_id: str, pk: Any, queue: str | None) -> str | None:
    value = conf.call(conf.correlation_function, signal_type, cqrs_id, pk, queue or NO_QUEUE)
    return None if value is None else str(value)


def continue_revisions(master: Any, instances: Sequence[Any], using: str) -> None:
    """Lift new rows above the deletes under their primary keys; looked up after the rows were written."""
    by_key = {key(master, instance): instance for instance in instances}
    for text, revision in outbox.last_deleted(master.CQRS_ID, list(by_key), using).items():
        instance = by_key[text]
        rows = master._base_manager.using(using).filter(pk=instance.pk, cqrs_revision__lte=revision)
        if rows.update(cqrs_revision=triggers.written(master, using, revision + 1)):
            instance.cqrs_revision = revision + 1


class Deleting:
    """A bulk delete that is going on: revisions that are locked already, promises to be written in the end."""

    def __init__(self, revisions: dict[tuple[Any, Any], int]) -> None:
        self.revisions = revisions
        self.promises: list[Promise] = []
        #: Of deletes whose outbox rows triggers write.
        self.additions: list[Promise] = []


#: The bulk delete of this thread, if there is one.
deleting: ContextVar[Deleting | None] = ContextVar("cqrs_deleting", default=None)


# --- deletes -------------------------------------------------------------------------------------------------------


def _locked_revision(model: type[models.Model], instance: models.Model, using: str) -> int | None:
    """Revision of the row as the database has it, locked until the transaction ends; None where there is no row."""
    rows = model._base_manager.using(using).filter(pk=instance.pk).order_by()
    locked = rows.select_for_update() if connections[using].features.has_select_for_update else rows
    while True:
        revision = locked.values_list(REVISION_FIELD, flat=True).first()
        # PostgreSQL finds nothing, too, when it has waited for a transaction that deleted the row and created it anew.
        if revision is not None or not rows.exists():
            return revision


def _before_delete(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    # What the instance remembers may be old; a delete with an old revision would be stale on the replicas.
    if triggers.captured_alone(sender, using):
        return
    together = deleting.get()
    revision = None if together is None else together.revisions.get((sender, instance.pk))
    if revision is None:
        revision = _locked_revision(sender, instance, using)
    instance.__dict__[_DELETED] = revision
    if revision is None and not isinstance(instance.pk, tuple) and _listens_alone(sender):
        # The row is gone already. One that another transaction creates before Django's DELETE would go with no word to
        # the replicas, so that the DELETE must find none; other listeners, though, would miss the key.
        instance.__dict__[_ABSENT] = instance.pk
        instance.pk = Value(None)


def _listens_alone(sender: Any) -> bool:
    others = [
        identity
        for (identity, key), *_ in pre_delete.receivers
        if key in (id(None), id(sender)) and not str(identity).startswith("django_cqrs_celery.")
    ]
    return not others


def _after_delete(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    if _ABSENT in instance.__dict__:
        instance.pk = instance.__dict__.pop(_ABSENT)
    revision = instance.__dict__.pop(_DELETED, None)
    masters = masters_of(sender)
    if triggers.captured_alone(sender, using):
        _forget(sender, instance, using)
        announce(using)
        return
    # Django deletes the parents of a multi-table row as instances of their own, or keeps them: a child that is no
    # master has nothing to tell, and of others only the first is this one's.
    if revision is None or not masters or masters[0]._meta.concrete_model is not sender._meta.concrete_model:
        return
    master = masters[0]
    data = {
        master._meta.pk.name: images.wire_pk(master, instance.pk),
        REVISION_FIELD: revision + 1,
        UPDATED_FIELD: timezone.now().isoformat(),
    }
    custom = instance.get_custom_cqrs_delete_data()
    if custom is not None:
        data["custom"] = serialization.guard(serialization.plain(custom))
    made = promise_of(master, instance, SignalType.DELETE, revision=revision + 1, data=data)
    together = deleting.get()
    if not triggers.captures(sender, using):
        if together is None:
            outbox.record(made, using)
        else:
            together.promises.append(made)
    elif custom is not None or made.meta is not None or made.correlation_id is not None:
        if together is None:
            outbox.complete_deletes([made], using)
        else:
            together.additions.append(made)
    _forget(sender, instance, using)
    announce(using)


def _forget(sender: Any, instance: Any, using: str) -> None:
    if connections[using].in_atomic_block:
        memory, row = _transaction(using), (sender._meta.concrete_model, str(instance.pk))
        memory.recorded.pop(row, None)
        memory.linked.discard(row)
