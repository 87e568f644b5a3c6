"""Links on a replica: written with the row that owns them, completed when the row that they lead to arrives.

A link whose other end is not here is remembered as a ``PendingLink`` and holds up nothing; it becomes a link when that
row lands. A link whose other end is deleted is remembered again: the row may come back, and the owner's state, which
has not changed, would not be sent once more. The owner's row is locked whenever its links, or what is remembered of
them, are changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from django.db import connections, models, transaction

from django_cqrs_celery import links, serialization, upserts
from django_cqrs_celery.models import PendingLink
from django_cqrs_celery.registries import ReplicaRegistry

#: Keys of linked rows by field.
Wanted = Mapping[models.ManyToManyField, set[Any]]


def text_of(model: type[models.Model], pk: Any) -> str:
    """The text of a primary key, as pending links and tombstones know it."""
    return serialization.pk_text(serialization.encode(model._meta.pk, pk))


# --- with the owner --------------------------------------------------------------------------------------------------


def write(model: type[models.Model], wanted: Mapping[Any, Wanted], using: str) -> bool:
    """Bring the links of locked rows to what is wanted, by primary key; True where some have to wait."""
    waiting = False
    for field in links.received(model).values():
        lists = {pk: of_row[field] for pk, of_row in wanted.items() if field in of_row}
        if lists:
            waiting |= _write_field(model, field, lists, using)
    return waiting


def _write_field(
    model: type[models.Model], field: models.ManyToManyField, lists: Mapping[Any, set[Any]], using: str
) -> bool:
    owner, target = links.ends(field)
    through = links.through(field)
    rows = through._base_manager.using(using).order_by()
    present: dict[Any, set[Any]] = {}
    needless = []
    pks = list(lists)
    for start in range(0, len(pks), links.CHUNK):
        part = rows.filter(**{f"{owner.attname}__in": pks[start : start + links.CHUNK]})
        for link, pk, other in part.values_list("pk", owner.attname, target.attname):
            if other in lists[pk] and other not in present.get(pk, ()):
                present.setdefault(pk, set()).add(other)
            else:
                needless.append(link)
    lacking = {pk: others - present.get(pk, set()) for pk, others in lists.items()}
    here = _present(field, set().union(*lacking.values()), using)
    upserts.delete(through, needless, using)
    _add(field, [(pk, other) for pk, others in lacking.items() for other in others & here], using)
    return remember(model, field, {pk: others - here for pk, others in lacking.items()}, using)


def _present(field: models.ManyToManyField, keys: Iterable[Any], using: str) -> set[Any]:
    """Those of the keys whose rows are here."""
    wanted = list(keys)
    rows = field.related_model._base_manager.using(using).order_by()  # type: ignore[union-attr]
    found: set[Any] = set()
    for start in range(0, len(wanted), links.CHUNK):
        found.update(rows.filter(pk__in=wanted[start : start + links.CHUNK]).values_list("pk", flat=True))
    return found


def _add(field: models.ManyToManyField, pairs: Iterable[tuple[Any, Any]], using: str) -> None:
    owner, target = links.ends(field)
    through = links.through(field)
    fresh = [through(**{owner.attname: pk, target.attname: other}) for pk, other in sorted(pairs)]
    through._base_manager.using(using).bulk_create(fresh, batch_size=links.CHUNK)


def set_by_hand(instance: Any, wanted: Wanted, using: str) -> bool:
    """As ``write``, for one row and by ``set()``, which tells receivers."""
    waiting = False
    for field, keys in wanted.items():
        here = _present(field, keys, using)
        getattr(instance, field.name).set(here)
        waiting |= remember(type(instance), field, {instance.pk: keys - here}, using)
    return waiting


def remember(
    model: type[models.Model], field: models.ManyToManyField, missing: Mapping[Any, set[Any]], using: str
) -> bool:
    """Remember the links of some rows that have to wait, in place of what was remembered; True where there are any."""
    pending = PendingLink.objects.using(using)
    texts = {pk: text_of(model, pk) for pk in missing}
    ordered = list(texts.values())
    for start in range(0, len(ordered), links.CHUNK):
        pending.of_rows(model.CQRS_ID, ordered[start : start + links.CHUNK]).filter(field=field.name).delete()  # type: ignore[attr-defined]
    target: Any = field.related_model
    fresh = [
        PendingLink(
            cqrs_id=model.CQRS_ID, instance_pk=texts[pk], field=field.name,  # type: ignore[attr-defined]
            target_model=target._meta.label_lower, target_pk=text_of(target, key),
        )
        for pk, keys in missing.items() for key in keys
    ]  # fmt: skip
    pending.bulk_create(fresh, batch_size=links.CHUNK)
    return bool(fresh)


def forget(model: type[models.Model], texts: Sequence[str], using: str) -> None:
    """The rows with these keys are deleted: nothing of theirs waits any more."""
    if links.received(model):
        PendingLink.objects.using(using).of_rows(model.CQRS_ID, texts).delete()  # type: ignore[attr-defined]


def state_of(row: Any, using: str) -> dict[str, list[Any]]:
    """The wire values of a row's links, those that wait among them, by the names of the master's fields."""
    model: Any = type(row)
    state: dict[str, list[Any]] = {}
    if getattr(model, "CQRS_ID", None) is None:
        return state
    for name, field in links.received(model).items():
        target = field.related_model._meta.pk  # type: ignore[union-attr]
        keys = links.linked(field, [row.pk], using).get(row.pk, set())
        waiting = PendingLink.objects.using(using).of_rows(model.CQRS_ID, [text_of(model, row.pk)])
        texts = waiting.filter(field=field.name).values_list("target_pk", flat=True)
        keys |= {serialization.decode(target, text) for text in texts}
        state[name] = sorted(serialization.encode(target, key) for key in keys)
    return state


# --- with the row that is linked to --------------------------------------------------------------------------------


@cache
def leading_to(model: Any) -> tuple[tuple[Any, models.ManyToManyField], ...]:
    """Replica models and those of their fields whose links lead to rows of ``model``."""
    found = []
    for owner in ReplicaRegistry.models.values():
        if isinstance(owner, type) and issubclass(owner, models.Model) and not owner.CQRS_CUSTOM_SERIALIZATION:  # type: ignore[attr-defined]
            found += [(owner, field) for field in links.received(owner).values() if field.related_model is model]
    return tuple(found)


def complete(model: Any, texts: Sequence[str], using: str) -> bool:
    """Rows with these keys have landed: make the links that waited for them; True where some have to wait longer."""
    if not leading_to(model):
        return False
    return _complete(PendingLink.objects.using(using).for_target(model._meta.label_lower, texts), using)


def about_to_go(
    model: Any, pks: Sequence[Any], dependents: Iterable[tuple[Any, Any]], using: str
) -> list[tuple[models.ManyToManyField, list[PendingLink]]]:
    """The links that lead to rows about to be deleted, and to those that go along; their owners are locked."""
    by_model: dict[Any, list[Any]] = {model: list(pks)}
    for _, row in dependents:
        by_model.setdefault(type(row), []).append(row.pk)
    return [
        (field, _links_to(owner_model, field, of_model, using))
        for going, of_model in by_model.items() for owner_model, field in leading_to(going)
    ]  # fmt: skip


def _links_to(owner_model: Any, field: models.ManyToManyField, pks: list[Any], using: str) -> list[PendingLink]:
    owner, target = links.ends(field)
    going: Any = field.related_model
    rows = links.through(field)._base_manager.using(using).order_by()
    found = []
    for start in range(0, len(pks), links.CHUNK):
        mine = rows.filter(**{f"{target.attname}__in": pks[start : start + links.CHUNK]})
        owners = sorted(set(mine.values_list(owner.attname, flat=True)))
        if owners:
            upserts.lock(owner_model, owners, using)
            found += [
                PendingLink(
                    cqrs_id=owner_model.CQRS_ID, instance_pk=text_of(owner_model, pk), field=field.name,
                    target_model=going._meta.label_lower, target_pk=text_of(going, other),
                )
                for pk, other in mine.values_list(owner.attname, target.attname)
            ]  # fmt: skip
    return found


def keep_broken(links_to: Iterable[tuple[models.ManyToManyField, list[PendingLink]]], using: str) -> None:
    """Remember the links to rows that have been deleted, since those may come back."""
    for field, found in links_to:
        pk: Any = field.related_model._meta.pk  # type: ignore[union-attr]
        keys = {link.target_pk: serialization.decode(pk, link.target_pk) for link in found}
        here = _present(field, keys.values(), using) if keys else set()
        broken = [link for link in found if keys[link.target_pk] not in here]
        PendingLink.objects.using(using).bulk_create(broken, batch_size=links.CHUNK)


def sweep(using: str) -> bool:
    """Complete what could not be completed when it landed: its owner was in other hands. True where links wait."""
    pending = PendingLink.objects.using(using)
    last = 0
    while chunk := list(pending.filter(pk__gt=last).order_by("pk")[: links.CHUNK]):
        last = chunk[-1].pk
        with transaction.atomic(using=using):
            upserts.begin_write(using)
            _complete(pending.filter(pk__in=[link.pk for link in chunk]), using)
    return last > 0 and pending.exists()


def _complete(pending: Any, using: str) -> bool:
    by_field: dict[tuple[str, str], list[Any]] = {}
    for link in pending:
        by_field.setdefault((link.cqrs_id, link.field), []).append(link)
    still_waiting = False
    for (cqrs_id, name), waiting in by_field.items():
        model: Any = ReplicaRegistry.models.get(cqrs_id)
        field = next((f for f in links.received(model).values() if f.name == name), None) if model else None
        if field is not None:
            still_waiting |= _complete_field(model, field, waiting, using)
    return still_waiting


def _complete_field(model: Any, field: models.ManyToManyField, waiting: list[Any], using: str) -> bool:
    owners = {link.instance_pk: serialization.decode(model._meta.pk, link.instance_pk) for link in waiting}
    locked = set(_lock_free(model, sorted(owners.values()), using))
    # Read anew: before the lock another worker may have written other links.
    again = PendingLink.objects.using(using).filter(pk__in=[link.pk for link in waiting])
    target = field.related_model._meta.pk  # type: ignore[union-attr]
    pairs = [(link.pk, owners[link.instance_pk], serialization.decode(target, link.target_pk)) for link in again]
    pairs = [pair for pair in pairs if pair[1] in locked]
    here = _present(field, {other for _, _, other in pairs}, using)
    ready = [pair for pair in pairs if pair[2] in here]
    known = links.linked(field, [pk for _, pk, _ in ready], using)
    _add(field, {(pk, other) for _, pk, other in ready if other not in known.get(pk, ())}, using)
    PendingLink.objects.using(using).filter(pk__in=[link for link, _, _ in ready]).delete()
    return len(ready) < len(waiting)


def _lock_free(model: Any, pks: Sequence[Any], using: str) -> Iterator[Any]:
    """Lock those of the rows that nobody else holds: waiting for them while holding others is how deadlocks begin."""
    features = connections[using].features
    rows = model._base_manager.using(using).filter(pk__in=pks).order_by("pk")
    if features.has_select_for_update:
        of = ("self",) if features.has_select_for_update_of else ()
        rows = rows.select_for_update(of=of, skip_locked=features.has_select_for_update_skip_locked)
    yield from rows.values_list("pk", flat=True)
