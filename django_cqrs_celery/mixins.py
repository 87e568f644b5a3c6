"""What a model inherits: ``MasterMixin`` where its rows are owned, ``ReplicaMixin`` where copies are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

from asgiref.sync import sync_to_async
from django.db import connections, models, router, transaction
from django.db.models.functions import Now

from django_cqrs_celery import conf, images, signals, tracker, triggers, triggers_rules
from django_cqrs_celery import metas as metas
from django_cqrs_celery.constants import ALL_BASIC_FIELDS, REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.fields import CAPTURED, RevisionField, UpdatedField
from django_cqrs_celery.managers import MasterManager, MasterQuerySet, ReplicaManager, need_fields

_SAVES_COUNT = "_cqrs_saves"
_SAVE_ARGUMENTS = ("force_insert", "force_update", "using", "update_fields")


class RawMasterMixin(models.Model):
    """Columns, hooks and saving of a master model; joins no registry by itself (``metas.MasterMeta.register``)."""

    #: Name under which master and replicas know each other.
    CQRS_ID: ClassVar[str | None] = None
    #: Whether changes are replicated at all.
    CQRS_PRODUCE: ClassVar[bool] = True
    #: Names of the fields that travel, the primary key among them, or ``'__all__'``.
    CQRS_FIELDS: ClassVar[Sequence[str] | Literal["__all__"]] = ALL_BASIC_FIELDS
    #: Dotted path of a class: ``Class(instance).data`` is what travels, instead of fields.
    CQRS_SERIALIZER: ClassVar[str | None] = None
    #: Who notices changes: ``'auto'``, ``'orm'``, ``'trigger'``, or None for what the setting ``capture`` says.
    CQRS_CAPTURE: ClassVar[Literal["auto", "orm", "trigger"] | None] = None
    #: Names of many-to-many fields whose links travel with the row, or ``'__all__'``.
    CQRS_M2M_FIELDS: ClassVar[Sequence[str] | Literal["__all__"] | None] = None
    #: Names of fields whose previous values travel too, or ``'__all__'``.
    CQRS_TRACKED_FIELDS: ClassVar[Sequence[str] | Literal["__all__"] | None] = None

    cqrs_revision = RevisionField(
        default=0, db_default=0, help_text="Raised by every change; tells newer from older on the replicas."
    )
    cqrs_updated = UpdatedField(
        auto_now=True, db_default=Now(), help_text="Time of the last change that was replicated."
    )

    objects = models.Manager.from_queryset(MasterQuerySet)()
    cqrs = MasterManager()

    class Meta:
        abstract = True

    def save(self, *args: Any, update_cqrs_fields: bool | None = None, **kwargs: Any) -> None:
        """Save, and in the same transaction promise to publish the change.

        With ``update_fields`` the change is replicated only if ``update_cqrs_fields`` is true (default: the setting
        ``CQRS_AUTO_UPDATE_FIELDS``) or ``cqrs_revision`` is among the fields; triggers capture it in any case.
        """
        kwargs.update(zip(_SAVE_ARGUMENTS, args, strict=False))
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        captured = triggers.captures(type(self), using)
        if kwargs.get("update_fields") is not None:
            wanted = conf.auto_update_fields() if update_cqrs_fields is None else update_cqrs_fields
            if wanted or captured:
                kwargs["update_fields"] = {*kwargs["update_fields"], REVISION_FIELD, UPDATED_FIELD}
        for name in (REVISION_FIELD, UPDATED_FIELD):
            # Of an instance with deferred fields Django saves the loaded ones alone, and these two are always written:
            # the value here is not looked at.
            self.__dict__.setdefault(name, None)
        alone = captured and not triggers_rules.has_hooks(type(self))
        self._count_save(using)
        self.__dict__[CAPTURED] = using, captured, alone
        try:
            with nullcontext() if alone else _one_transaction(using):
                super().save(**kwargs)
        finally:
            self.__dict__.pop(CAPTURED, None)

    async def asave(self, *args: Any, update_cqrs_fields: bool | None = None, **kwargs: Any) -> None:
        """As ``save``, from asynchronous code."""
        await sync_to_async(self.save)(*args, update_cqrs_fields=update_cqrs_fields, **kwargs)

    asave.alters_data = True  # type: ignore[attr-defined]

    def delete(self, using: str | None = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Delete, and in the same transaction promise to publish the delete."""
        using = using or router.db_for_write(type(self), instance=self)
        with _one_transaction(using):
            return super().delete(using=using, keep_parents=keep_parents)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def cqrs_saves_count(self) -> int:
        """How often this instance was saved in the transaction that is open now; 0 outside of one.

        The save that is going on counts; the transaction that it opens by itself does not.
        """
        using = self._state.db or router.db_for_write(type(self), instance=self)
        transaction_of, count = self.__dict__.get(_SAVES_COUNT, (None, 0))
        return count if transaction_of is connections[using].run_on_commit else 0

    @property
    def is_initial_cqrs_save(self) -> bool:
        """Whether this is the first save of the instance in the transaction that is open now, or there is none."""
        return self.cqrs_saves_count < 2

    def reset_cqrs_saves_count(self) -> None:
        """Start counting saves anew. The revision is still raised once per transaction: the database counts it."""
        self.__dict__.pop(_SAVES_COUNT, None)

    def _count_save(self, using: str) -> None:
        if not connections[using].in_atomic_block:
            self.reset_cqrs_saves_count()
            return
        hooks = connections[using].run_on_commit
        transaction_of, count = self.__dict__.get(_SAVES_COUNT, (None, 0))
        self.__dict__[_SAVES_COUNT] = (hooks, count + 1 if transaction_of is hooks else 1)

    def save_tracked_fields(self) -> None:
        """Note the previous values of tracked fields, for a write past ``save()`` of which the project tells itself.

        They go with the change that ``call_post_update`` or ``call_post_bulk_create`` makes of this instance.
        """
        tracker.note(self, tracker.previous_values(self), by_hand=True)

    def get_tracked_fields_data(self) -> dict[str, Any] | None:
        """Previous values of the tracked fields that have changed, by field name; None where nothing is tracked.

        Before a save those of the save to come, after it those of the transaction's saves of this instance together.
        """
        return tracker.noted(self) if tracker.tracks(type(self)) else None

    # -- what travels ------------------------------------------------------------------------------------------------

    def to_cqrs_dict(self, using: str | None = None, sync: bool = False) -> dict[str, Any]:
        """The image of this instance as it travels. Raises ``EncodeError``.

        What an instance holds as an expression, such as ``F("stock") - 1``, is read from the database. With a
        serializer the row is read by ``relate_cqrs_serialization``; with ``sync`` the serializer gets this instance.
        """
        if self.CQRS_SERIALIZER:
            return images.serialized(self if sync else images.related(self, using))
        return images.of_instance(self, using)

    to_cqrs_dict.cqrs_default = True  # type: ignore[attr-defined]

    def cqrs_sync(self, using: str | None = None, queue: str | None = None) -> bool:
        """Send the row as the database has it now, to one replica queue or to all.

        False where there is no such row. A row that ``is_sync_instance`` leaves out is not sent.
        """
        using = using or self._state.db or router.db_for_write(type(self), instance=self)
        if not type(self)._base_manager.using(using).filter(pk=self.pk).exists():
            return False
        with transaction.atomic(using=using, savepoint=False):
            signals.sync_requested.send(sender=type(self), instances=[self], using=using, queue=queue)
        return True

    # -- hooks -------------------------------------------------------------------------------------------------------

    def is_sync_instance(self) -> bool:
        """Whether this row is replicated; asked in the saving thread."""
        return True

    is_sync_instance.cqrs_default = True  # type: ignore[attr-defined]

    def get_cqrs_meta(self, **kwargs: Any) -> Any:
        """The ``meta`` of a change of this row; asked in the saving thread.

        ``kwargs``: ``instance_data``, ``previous_data``, ``signal_type``. By default what ``meta_function`` of the
        settings gives, or ``{}``.
        """
        return {} if conf.meta_function() is None else conf.call(conf.meta_function, obj=self, **kwargs)

    get_cqrs_meta.cqrs_default = True  # type: ignore[attr-defined]

    def get_custom_cqrs_delete_data(self) -> Any:
        """Data that goes with a delete, as ``instance_data['custom']``."""
        return None

    get_custom_cqrs_delete_data.cqrs_default = True  # type: ignore[attr-defined]

    @classmethod
    def relate_cqrs_serialization(cls, queryset: models.QuerySet) -> models.QuerySet:
        """Add ``select_related`` and the like to the query that reads rows for a serializer."""
        return queryset

    @classmethod
    def call_post_bulk_create(cls, instances: Sequence[models.Model], using: str | None = None) -> None:
        """Replicate instances that were written past the ORM's signals."""
        signals.post_bulk_create.send(sender=cls, instances=instances, using=using)

    @classmethod
    def call_post_update(cls, instances: Sequence[models.Model], using: str | None = None) -> None:
        """Replicate instances whose rows were updated past the ORM's signals."""
        signals.post_update.send(sender=cls, instances=instances, using=using)

    call_post_update.__func__.cqrs_default = True  # type: ignore[attr-defined]


def _one_transaction(using: str) -> Any:
    """The transaction that is open, or a new one: row and outbox row are written in the same."""
    return nullcontext() if connections[using].in_atomic_block else transaction.atomic(using=using)


class MasterMixin(RawMasterMixin):
    """A model whose rows this service owns; registers itself under its ``CQRS_ID``."""

    _cqrs_side: ClassVar[str] = "master"

    class Meta:
        abstract = True


class RawReplicaMixin:
    """Hooks of a replica. Alone it is a target that is no Django table (``metas.ReplicaMeta.register``)."""

    #: Name under which master and replicas know each other.
    CQRS_ID: ClassVar[str | None] = None
    #: Replica field by master field, where names differ or only some fields are kept; the primary key among them.
    CQRS_MAPPING: ClassVar[Mapping[str, str] | None] = None
    #: Whether hooks get the master's data as it came.
    CQRS_CUSTOM_SERIALIZATION: ClassVar[bool] = False
    #: Kept for projects that set it; rows are always locked before they are compared.
    CQRS_SELECT_FOR_UPDATE: ClassVar[bool] = False
    #: Whether ``cqrs_save`` and ``cqrs_delete`` do all by themselves and no table of this service is touched.
    CQRS_NO_DB_OPERATIONS: ClassVar[bool] = True
    #: Whether hooks get ``meta``.
    CQRS_META: ClassVar[bool] = False
    #: Whether a SYNC is applied only where it was sent to this service's queue alone, not to all replicas.
    CQRS_ONLY_DIRECT_SYNCS: ClassVar[bool] = False

    @classmethod
    def cqrs_save(
        cls, master_data: Mapping[str, Any], previous_data: Any = None, sync: bool = False, meta: Any = None
    ) -> Any:
        """Take over the state of a row. Returns something true, or the change is set aside as failed."""
        raise NotImplementedError(f"{cls.__name__} must define cqrs_save().")

    @classmethod
    def cqrs_delete(cls, master_data: Mapping[str, Any], meta: Any = None) -> bool:
        """Take over the delete of a row. Returns something true, or the change is set aside as failed."""
        raise NotImplementedError(f"{cls.__name__} must define cqrs_delete().")

    @classmethod
    def should_retry_cqrs(cls, current_retry: int, exception: BaseException | None = None) -> bool:
        """Whether a change that has failed ``current_retry + 1`` times is tried again."""
        limit = conf.max_retries()
        return limit is None or current_retry < limit

    @classmethod
    def get_cqrs_retry_delay(cls, current_retry: int) -> float:
        """Seconds before retry number ``current_retry + 1``."""
        return conf.retry_delay()


class ReplicaMixin(RawReplicaMixin, models.Model):
    """A model that keeps copies of a master's rows; registers itself under its ``CQRS_ID``."""

    _cqrs_side: ClassVar[str] = "replica"
    CQRS_NO_DB_OPERATIONS: ClassVar[bool] = False

    cqrs_revision = models.IntegerField()
    cqrs_updated = models.DateTimeField()

    objects = models.Manager()
    cqrs = ReplicaManager()

    class Meta:
        abstract = True

    @classmethod
    def cqrs_save(
        cls, master_data: Mapping[str, Any], previous_data: Any = None, sync: bool = False, meta: Any = None
    ) -> Any:
        """Create or update the row by ``cqrs_create`` or ``cqrs_update``."""
        if cls.CQRS_NO_DB_OPERATIONS:
            return super().cqrs_save(master_data, previous_data, sync, meta)
        return cls.cqrs.save_instance(master_data, previous_data, sync, meta)

    @classmethod
    def cqrs_create(
        cls, sync: bool, mapped_data: Mapping[str, Any], previous_data: Any = None, meta: Any = None
    ) -> Any:
        """Create the row; a required field that is missing in ``mapped_data`` raises ``ApplyError``."""
        if not cls.CQRS_CUSTOM_SERIALIZATION:
            need_fields(cls, mapped_data)
        return cls._default_manager.create(**mapped_data)

    def cqrs_update(
        self, sync: bool, mapped_data: Mapping[str, Any], previous_data: Any = None, meta: Any = None
    ) -> Any:
        """Update the row."""
        for name, value in mapped_data.items():
            setattr(self, name, value)
        self.save()
        return self

    @classmethod
    def cqrs_delete(cls, master_data: Mapping[str, Any], meta: Any = None) -> bool:
        """Delete the row."""
        if cls.CQRS_NO_DB_OPERATIONS:
            return super().cqrs_delete(master_data, meta)
        return cls.cqrs.delete_instance(master_data)
