"""Capture of links: whoever makes or breaks one raises the revision of its owner, in the same transaction.

``add()``, ``remove()``, ``set()`` and ``clear()`` from both sides, saved and deleted instances of a ``through`` model
of the project's own, and rows that go and take their links along. Owners are locked before their links change, so that
the revisions of a row have the order of its links. They are raised afterwards, so that hooks see the new links, by an
ordinary ``QuerySet.update()``, which is captured as any other. Where triggers capture the links, they raise the
revisions, and what is left to do here is to lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.apps import apps
from django.db import connections, models, router, transaction
from django.db.models.functions import Now
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from django_cqrs_celery import capture, links, signals, triggers
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.managers import MasterQuerySet
from django_cqrs_celery.models import OutboxMessage
from django_cqrs_celery.registries import MasterRegistry

_IDENTITY = "django_cqrs_celery.link_capture"
#: Attribute of an instance that keeps the owners whose links are changing, until they have changed.
_OWNERS = "_cqrs_owners"
#: Primary keys of owners by master model.
Owners = dict[Any, set[Any]]


def start() -> None:
    """Listen to the links of every master model there is, and of those that come later."""
    for model in MasterRegistry.models.values():
        connect(model)
    signals.master_registered.connect(_on_master_registered, dispatch_uid=_IDENTITY)


def _on_master_registered(sender: Any, **kwargs: Any) -> None:
    # The models that its fields name may come later still.
    for field in sender._meta.many_to_many if links.chosen(sender) else ():
        relation = field.remote_field
        models.fields.related.lazy_related_operation(
            lambda *found: connect(found[0]), sender, relation.model, *([relation.through] if relation.through else [])
        )


def connect(master: type[models.Model]) -> None:
    """Listen to the links of one master model."""
    if not links.chosen(master):
        return
    for field in links.replicated(master):
        through: Any = links.through(field)
        if not links.is_resolved(field):
            continue
        m2m_changed.connect(_on_changed, sender=through, dispatch_uid=_IDENTITY)
        if through._meta.auto_created:
            # The links go with the row that they lead to, and Django sends no signal for them.
            for target in _spellings(field.related_model):
                pre_delete.connect(_before_target_goes, sender=target, dispatch_uid=_IDENTITY)
                post_delete.connect(_after_change, sender=target, dispatch_uid=_IDENTITY)
        else:
            _save_in_one_transaction(through)
            pre_save.connect(_before_link_is_saved, sender=through, dispatch_uid=_IDENTITY)
            post_save.connect(_after_change, sender=through, dispatch_uid=_IDENTITY)
            pre_delete.connect(_before_link_goes, sender=through, dispatch_uid=_IDENTITY)
            post_delete.connect(_after_change, sender=through, dispatch_uid=_IDENTITY)


def _spellings(model: Any) -> list[Any]:
    """A model and its proxies."""
    found = [m for m in apps.get_models() if m._meta.concrete_model is model._meta.concrete_model]
    return found if model in found else [model, *found]


def _save_in_one_transaction(through: Any) -> None:
    """Have ``save()`` of a plain model span its signals: Django sends them before and after its transaction."""
    save_base: Callable[..., None] = through.save_base
    if getattr(save_base, "cqrs_in_one", False):
        return

    def save_in_one(self: Any, *args: Any, using: str | None = None, **kwargs: Any) -> None:
        alias = using or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=alias, savepoint=False):
            save_base(self, *args, using=alias, **kwargs)

    save_in_one.cqrs_in_one = True  # type: ignore[attr-defined]
    through.save_base = save_in_one


def _fields(*, through: Any = None, target: Any = None) -> Iterator[tuple[Any, Any]]:
    """Captured master models and those of their fields whose links are of this model, or lead to this one."""
    for master in MasterRegistry.models.values():
        for field in links.replicated(master) if capture.masters_of(master) else ():
            leads_to = field.related_model._meta.concrete_model  # type: ignore[union-attr]
            if links.through(field) is through or (target is not None and leads_to is target):
                yield master, field


# --- what changes links ----------------------------------------------------------------------------------------------


def _on_changed(
    sender: Any, instance: Any, action: str, reverse: bool, using: str, pk_set: Any = None, **kwargs: Any
) -> None:
    if action.startswith("post_"):
        _after_change(sender, instance, using)
        if not reverse:
            instance.__dict__.pop(REVISION_FIELD, None)  # read when asked for
    elif pk_set is None or pk_set:
        owners: Owners = {}
        for master, field in _fields(through=sender):
            found = owners.setdefault(master, set())
            if not reverse:
                found.add(instance.pk)
            if (reverse or _is_symmetrical(field)) and pk_set is not None:
                found.update(pk_set)
            elif reverse or _is_symmetrical(field):
                found.update(_owners_of(field, [instance.pk], using))
        _before_change(instance, owners, using)


def _is_symmetrical(field: Any) -> bool:
    return bool(field.remote_field.symmetrical)


def _owners_of(field: Any, targets: list[Any], using: str) -> set[Any]:
    """Owners of all links that lead to some rows.

    The rows are locked first: whoever makes another link to one of them has committed by then, or waits.
    """
    _lock(field.related_model, targets, using)
    owner, target = links.ends(field)
    rows = links.through(field)._base_manager.using(using).order_by().filter(**{f"{target.attname}__in": targets})
    return set(rows.values_list(owner.attname, flat=True))


def _before_target_goes(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    if isinstance(instance.pk, models.Expression):
        return  # its row is gone already
    owners: Owners = {}
    for master, field in _fields(target=sender._meta.concrete_model):
        if links.through(field)._meta.auto_created:
            owners.setdefault(master, set()).update(_owners_of(field, [instance.pk], using))
    _before_change(instance, owners, using)


def _before_link_is_saved(sender: Any, instance: Any, raw: bool, using: str, **kwargs: Any) -> None:
    owners: Owners = {}
    for master, field in _fields(through=sender):
        owner, _ = links.ends(field)
        found = owners.setdefault(master, set())
        found.add(getattr(instance, owner.attname))
        if not instance._state.adding and instance.pk is not None:
            # A link that is moved is broken for its owner of before.
            found.update(sender._base_manager.using(using).filter(pk=instance.pk).values_list(owner.attname, flat=True))
    _before_change(instance, owners, using)


def _before_link_goes(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    owners: Owners = {}
    for master, field in _fields(through=sender):
        owners.setdefault(master, set()).add(getattr(instance, links.ends(field)[0].attname))
    _before_change(instance, owners, using)


# --- what becomes of the owners --------------------------------------------------------------------------------------


def _before_change(instance: Any, owners: Owners, using: str) -> None:
    for master, pks in owners.items():
        _lock(master, pks, using)
    instance.__dict__[_OWNERS] = owners


def _after_change(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    for master, pks in instance.__dict__.pop(_OWNERS, {}).items():
        if triggers.captures_links(master, using):
            capture.raised(master, pks, using, promised=True)
            capture.announce(using)
        else:
            touch(master, pks, using)


def _lock(model: Any, pks: Iterable[Any], using: str) -> None:
    """Lock rows until the transaction ends, in the order of their keys, as others do."""
    wanted = sorted(pks)
    features = connections[using].features
    if not features.has_select_for_update:
        if wanted:
            OutboxMessage.objects.using(using).filter(pk=-1).update(attempts=0)  # takes the database's write lock
        return
    rows = model._base_manager.using(using).order_by("pk")
    rows = rows.select_for_update(of=("self",) if features.has_select_for_update_of else ())
    for start in range(0, len(wanted), links.CHUNK):
        list(rows.filter(pk__in=wanted[start : start + links.CHUNK]).values_list("pk"))


def touch(master: Any, pks: Iterable[Any], using: str) -> None:
    """Raise the revision of rows whose links have changed, once in a transaction."""
    fresh = sorted(capture.not_raised(master, pks, using))
    rows = MasterQuerySet(master, using=using)
    values: dict[str, Any] = {UPDATED_FIELD: Now()}
    if triggers.captured_alone(master, using):
        values[REVISION_FIELD] = models.F(REVISION_FIELD) + 1  # the row's own triggers promise what has a new revision
        capture.announce(using)
    for start in range(0, len(fresh), links.CHUNK):
        rows.filter(pk__in=fresh[start : start + links.CHUNK]).update(**values)
    capture.raised(master, fresh, using)
