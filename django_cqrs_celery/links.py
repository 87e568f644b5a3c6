"""Many-to-many fields that travel: which they are on each side, and the lists of keys in an image.

A link is a row of a field's through model. The list of the keys that a row is linked to travels within its image,
under the name of the field, so that it has the row's revision and all its guarantees: a link that is made or broken
raises the revision of its owner.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from django.db import models

from django_cqrs_celery import serialization
from django_cqrs_celery.constants import ALL_BASIC_FIELDS
from django_cqrs_celery.exceptions import ApplyError

#: Rows whose links are read or written by one statement.
CHUNK = 500


def chosen(model: Any) -> Collection[str]:
    """The names in ``CQRS_M2M_FIELDS``, as far as they are readable."""
    names = getattr(model, "CQRS_M2M_FIELDS", None) or ()
    if isinstance(names, str):
        return [f.name for f in model._meta.many_to_many] if names == ALL_BASIC_FIELDS else ()
    return names if isinstance(names, Collection) else ()


@cache
def replicated(master: type[models.Model]) -> tuple[models.ManyToManyField, ...]:
    """The many-to-many fields of a master model whose links travel."""
    names = chosen(master)
    return tuple(field for field in master._meta.many_to_many if field.name in names)


@cache
def received(replica: type[models.Model]) -> dict[str, models.ManyToManyField]:
    """The many-to-many fields of a replica model by the name of the master's field that fills them."""
    fields = {field.name: field for field in replica._meta.many_to_many}
    mapping = getattr(replica, "CQRS_MAPPING", None)
    if not isinstance(mapping, Mapping) or not mapping:
        return fields
    return {name: fields[own] for name, own in mapping.items() if own in fields}


def through(field: models.ManyToManyField) -> type[models.Model]:
    """The model of the links."""
    return field.remote_field.through  # type: ignore[attr-defined,return-value]


def is_resolved(field: models.ManyToManyField) -> bool:
    """Whether the models that a field names are there; where they are not, Django's own checks say so."""
    return hasattr(field, "m2m_field_name") and not isinstance(through(field), (str, type(None)))


def ends(field: models.ManyToManyField) -> tuple[models.ForeignKey, models.ForeignKey]:
    """The foreign keys of a link: to the row that owns the field, and to the one that it is linked to."""
    options: Any = through(field)._meta
    return options.get_field(field.m2m_field_name()), options.get_field(field.m2m_reverse_field_name())  # type: ignore[attr-defined]


def linked(field: models.ManyToManyField, pks: Sequence[Any], using: str) -> dict[Any, set[Any]]:
    """Keys that rows are linked to, by the key of the owner; one query for each ``CHUNK`` of rows."""
    owner, target = ends(field)
    rows = through(field)._base_manager.using(using).order_by()
    found: dict[Any, set[Any]] = {}
    for start in range(0, len(pks), CHUNK):
        part = rows.filter(**{f"{owner.attname}__in": pks[start : start + CHUNK]})
        for pk, other in part.values_list(owner.attname, target.attname):
            found.setdefault(pk, set()).add(other)
    return found


def lists(model: type[models.Model], pks: Iterable[Any], using: str) -> dict[Any, dict[str, list[Any]]]:
    """The wire values of the links of some rows: by primary key and field name, in the order of the keys."""
    wanted = list(pks)
    found: dict[Any, dict[str, list[Any]]] = {pk: {} for pk in wanted}
    for field in replicated(model):
        target = field.related_model._meta.pk  # type: ignore[union-attr]
        keys = linked(field, wanted, using)
        for pk in wanted:
            found[pk][field.name] = sorted(serialization.encode(target, key) for key in keys.get(pk, ()))
    return found


def decode(replica: type[models.Model], data: Mapping[str, Any]) -> dict[models.ManyToManyField, set[Any]]:
    """The links that a change brings, as keys by field; a field of which it says nothing is left out.

    Raises ``ApplyError`` where a value is no list of keys.
    """
    wanted: dict[models.ManyToManyField, set[Any]] = {}
    for name, field in received(replica).items():
        if name not in data:
            continue
        value = data[name]
        if not isinstance(value, list):
            raise ApplyError(f"{field} cannot take the {type(value).__name__} of the message, expected a list of keys.")
        pk = field.related_model._meta.pk  # type: ignore[union-attr]
        try:
            wanted[field] = {serialization.decode(pk, key) for key in value}
        except ApplyError as error:
            raise ApplyError(f"{field} cannot take the list: {error}.") from error
        if None in wanted[field]:
            raise ApplyError(f"{field} cannot take a list with a key that is null.")
    return wanted
