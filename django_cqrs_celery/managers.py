"""``Model.cqrs`` on both sides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.db import connections, models, router, transaction
from django.db.models.functions import Now

from django_cqrs_celery import preloaded, serialization, signals, tracker
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.exceptions import ApplyError
from django_cqrs_celery.fields import MARKED


class Conflicts(NamedTuple):
    """What a ``bulk_create`` does with rows that are there already."""

    updates: bool = False
    ignores: bool = False


_NO_CONFLICTS = Conflicts()
#: Of the ``bulk_create`` whose rows are being told of; the hook in between knows nothing of it.
conflicts: ContextVar[Conflicts] = ContextVar("cqrs_conflicts", default=_NO_CONFLICTS)


class MasterQuerySet(models.QuerySet[Any]):
    """The querysets of a master model: Django's own bulk writes, which replicate.

    A manager of the project's replicates bulk writes, too, if its querysets are of this class.
    """

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:  # type: ignore[override]
        """As Django's, also with ``update_conflicts`` and ``ignore_conflicts``; sends ``post_bulk_create``."""
        using = self._write_alias()
        objs = list(objs)
        handling = Conflicts(bool(kwargs.get("update_conflicts")), bool(kwargs.get("ignore_conflicts")))
        with transaction.atomic(using=using, savepoint=False):
            signals.rows_creating.send(sender=self.model, instances=objs, using=using, conflicts=handling)
            created = super().bulk_create(objs, *args, **kwargs)
            for instance in created:
                instance.__dict__.pop(MARKED, None)
            token = conflicts.set(handling)
            try:
                self.model.call_post_bulk_create(created, using=using)
            finally:
                conflicts.reset(token)
        return created

    def update(self, **kwargs: Any) -> int:
        """As Django's; raises the revisions of the rows, unless ``cqrs_revision`` is among the values."""
        if REVISION_FIELD in kwargs:
            return super().update(**kwargs)
        using = self._write_alias()
        answers: Any = signals.rows_updating.send(sender=self.model, queryset=self, values=kwargs, using=using)
        for _, update in answers:
            if update is not None:
                return update()
        return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        """As Django's; the revisions of the rows are read, and their deletes promised, in few statements."""
        using = self._write_alias()
        with transaction.atomic(using=using, savepoint=False), ExitStack() as around:
            answers: Any = signals.rows_deleting.send(sender=self.model, queryset=self, using=using)
            for _, manager in answers:
                if manager is not None:
                    around.enter_context(manager)
            return super().delete()

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def _write_alias(self) -> str:
        self._for_write = True
        return self.db


class MasterManager(models.Manager.from_queryset(MasterQuerySet)):  # type: ignore[misc]
    """``Model.cqrs`` of a master model."""

    def bulk_update(self, queryset: models.QuerySet, **kwargs: Any) -> int:
        """``queryset.update(**kwargs)`` that raises revisions and replicates, in one transaction.

        Calls ``call_post_update`` with the updated instances, which sends ``post_update``, where the project overrides
        the one or listens to the other; returns the number of rows.
        """
        model: Any = self.model
        using = queryset._db or self._db or router.db_for_write(model)  # type: ignore[attr-defined]
        rows = MasterQuerySet(model, query=queryset.query.chain(), using=using)
        if len(signals.post_update.receivers) < 2 and getattr(model.call_post_update, "cqrs_default", False):
            return rows.update(**kwargs)
        with transaction.atomic(using=using):
            before = list(rows.select_for_update().order_by("pk"))
            stamps = {UPDATED_FIELD: Now(), REVISION_FIELD: models.F(REVISION_FIELD) + 1}
            changed = model._base_manager.using(using).filter(pk__in=[row.pk for row in before])
            count = changed.update(**{**stamps, **kwargs})
            model.call_post_update(tracker.as_updated(model, before, set(kwargs), using), using=using)
        return count

    async def abulk_update(self, queryset: models.QuerySet, **kwargs: Any) -> int:  # type: ignore[override]
        """As ``bulk_update``, from asynchronous code."""
        return await sync_to_async(self.bulk_update)(queryset, **kwargs)


_UNREAD: Any = object()


class ReplicaManager(models.Manager):
    """What the default hooks of a replica model do with one change."""

    def save_instance(
        self,
        master_data: Mapping[str, Any],
        previous_data: Mapping[str, Any] | None = None,
        sync: bool = False,
        meta: Any = None,
    ) -> models.Model | None:
        """Create the row or bring it to the state of ``master_data``, whichever it needs; the row is locked meanwhile.

        Returns the instance; None where it has this revision or a newer one (a ``sync`` rewrites these too).
        """
        model: Any = self.model
        mapped = map_data(model, master_data)
        previous = map_previous(model, previous_data)
        pk_name = model._meta.pk.attname
        if model.CQRS_CUSTOM_SERIALIZATION:
            pk = serialization.decode(model._meta.pk, mapped[master_pk_name(model, mapped)])
        else:
            pk = mapped[pk_name]
        using = self._db or router.db_for_write(model)
        with transaction.atomic(using=using, savepoint=False):
            instance = preloaded.take(model, using, pk, _UNREAD)
            if instance is _UNREAD:
                rows = model._base_manager.using(using)
                if connections[using].features.has_select_for_update:
                    rows = rows.select_for_update()
                instance = rows.filter(pk=pk).first()
            if instance is None:
                return self.create_instance(mapped, previous, sync, meta)
            if not sync and master_data[REVISION_FIELD] <= getattr(instance, REVISION_FIELD):
                return None
            return self.update_instance(instance, mapped, previous, sync, meta)

    def create_instance(
        self, mapped_data: Mapping[str, Any], previous_data: Any = None, sync: bool = False, meta: Any = None
    ) -> models.Model | None:
        """Call the model's ``cqrs_create``."""
        return self.model.cqrs_create(  # type: ignore[attr-defined]
            sync, mapped_data, previous_data=previous_data, **_meta(self.model, meta)
        )

    def update_instance(
        self,
        instance: Any,
        mapped_data: Mapping[str, Any],
        previous_data: Any = None,
        sync: bool = False,
        meta: Any = None,
    ) -> models.Model | None:
        """Call the instance's ``cqrs_update``."""
        return instance.cqrs_update(sync, mapped_data, previous_data=previous_data, **_meta(self.model, meta))

    def delete_instance(self, master_data: Mapping[str, Any]) -> bool:
        """Delete the row that ``master_data`` names, if there is one; True, also where there was none."""
        model: Any = self.model
        using = self._db or router.db_for_write(model)
        pk = serialization.decode(model._meta.pk, master_data[master_pk_name(model, master_data)])
        instance = model._base_manager.using(using).filter(pk=pk).first()
        if instance is not None:
            instance.delete(using=using)
        return True


def _meta(model: Any, meta: Any) -> dict[str, Any]:
    return {"meta": meta} if model.CQRS_META else {}


def master_pk_name(model: type[models.Model], master_data: Mapping[str, Any]) -> str:
    """Name under which the master sends the primary key of a replica model."""
    pk = model._meta.pk
    mapping = getattr(model, "CQRS_MAPPING", None)
    if mapping:
        for master_name, replica_name in mapping.items():
            if replica_name in (pk.name, pk.attname):
                return master_name
    for name in (pk.name, pk.attname, "id"):
        if name in master_data:
            return name
    return pk.name


def replica_fields(model: type[models.Model]) -> dict[str, models.Field]:
    """Replica field by the master field name that fills it."""
    fields = {f.name: f for f in model._meta.concrete_fields if not isinstance(f, models.GeneratedField)}
    by_attname = {f.attname: f for f in fields.values()}
    mapping = getattr(model, "CQRS_MAPPING", None)
    if not mapping:
        return fields
    chosen = {}
    for master_name, replica_name in mapping.items():
        field = fields.get(replica_name) or by_attname.get(replica_name)
        if field is not None:
            chosen[master_name] = field
    for name in (REVISION_FIELD, UPDATED_FIELD):
        if name in fields:
            chosen.setdefault(name, fields[name])
    return chosen


def missing_fields(model: type[models.Model], names: Collection[str]) -> list[models.Field]:
    """Fields that a new row needs a value for, and that are not among these names."""
    return [
        field
        for field in model._meta.concrete_fields
        if field.attname not in names
        and field.name not in names
        and not (field.null or field.has_default() or field.has_db_default())
        and not isinstance(field, (models.GeneratedField, models.AutoField))
        and not getattr(field, "auto_now", False)
        and not getattr(field, "auto_now_add", False)
    ]


def need_fields(model: type[models.Model], names: Collection[str]) -> None:
    """Raise ``ApplyError`` where a new row could not be made of these attributes.

    What nobody can edit, a model with a ``save()`` of its own fills by itself, as trees do.
    """
    fills_by_itself = model.save is not models.Model.save
    missing = [field for field in missing_fields(model, names) if field.editable or not fills_by_itself]
    if missing:
        raise ApplyError(f"The change lacks {', '.join(str(field) for field in missing)}, which the replica requires.")


def map_data(model: type[models.Model], master_data: Mapping[str, Any]) -> dict[str, Any]:
    """Master data as ``cqrs_create`` and ``cqrs_update`` get it.

    Python values by attribute name, foreign keys as ``<name>_id``, fields that the replica lacks dropped; with
    ``CQRS_CUSTOM_SERIALIZATION`` the wire values as they came. Raises ``ApplyError`` for a value that does not fit.
    """
    if model.CQRS_CUSTOM_SERIALIZATION:  # type: ignore[attr-defined]
        return {key: serialization.unguard(value) for key, value in master_data.items()}
    mapped: dict[str, Any] = {}
    for master_name, field in replica_fields(model).items():
        if master_name in master_data:
            mapped[field.attname] = serialization.decode(field, master_data[master_name])
        elif field.attname != master_name and field.attname in master_data:
            mapped[field.attname] = serialization.decode(field, master_data[field.attname])
    if model._meta.pk.attname not in mapped:
        raise ApplyError(f"The change has no value for the primary key {model._meta.pk} of the replica.")
    return mapped


def map_previous(model: type[models.Model], previous_data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Previous values as ``cqrs_create`` and ``cqrs_update`` get them: under the names of ``map_data`` and read alike.

    What the replica has no field for stays as it came, unless a ``CQRS_MAPPING`` leaves it out. None where there are
    none.
    """
    if not previous_data:
        return None
    if model.CQRS_CUSTOM_SERIALIZATION:  # type: ignore[attr-defined]
        return {key: serialization.unguard(value) for key, value in previous_data.items()}
    fields = replica_fields(model)
    mapped = {} if getattr(model, "CQRS_MAPPING", None) else {n: v for n, v in previous_data.items() if n not in fields}
    for name, field in fields.items():
        if name in previous_data:
            mapped[field.attname] = serialization.decode(field, previous_data[name])
    return mapped
