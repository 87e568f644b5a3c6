"""The image of a master row: its replicated values, as wire values, together with its revision."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import models, router
from django.db.models.functions import Cast
from django.utils import timezone
from django.utils.module_loading import import_string

from django_cqrs_celery import links, rowreads, serialization
from django_cqrs_celery.constants import ALL_BASIC_FIELDS, REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.exceptions import EncodeError

#: Attribute of an instance that was read together with what its serializer looks at.
_RELATED = "_cqrs_related"


@cache
def replicated_fields(model: type[models.Model]) -> tuple[models.Field, ...]:
    """Concrete fields that travel, by ``CQRS_FIELDS``; the revision and its time are always among them."""
    names = getattr(model, "CQRS_FIELDS", ALL_BASIC_FIELDS)
    return tuple(
        field
        for field in model._meta.concrete_fields
        if names == ALL_BASIC_FIELDS or field.name in names or field.name in (REVISION_FIELD, UPDATED_FIELD)
    )


@dataclass(frozen=True)
class _Column:
    """A column that travels: its names, its encoder and, for JSON, where the query puts the JSON text."""

    name: str
    attname: str
    field: models.Field
    encoder: serialization.Encoder | None
    json_text: str | None

    def encode(self, value: Any) -> Any:
        """Wire value of a Python value, whatever it is. Raises ``EncodeError``."""
        return None if value is None else serialization.encode_with(self.encoder, self.field, value)


@cache
def _columns(model: type[models.Model]) -> tuple[_Column, ...]:
    return tuple(
        _Column(
            field.name, field.attname, field, serialization.encoder_for(field),
            f"cqrs_json_{position}" if serialization.is_json_column(field) else None,
        )
        for position, field in enumerate(replicated_fields(model))
    )  # fmt: skip


def _with_json_texts(model: type[models.Model], queryset: models.QuerySet) -> models.QuerySet:
    # A decoder of the project's makes anything of JSON, and Django reads the JSON null as it reads the SQL NULL. The
    # text of the column is what travels.
    texts = {c.json_text: Cast(c.name, models.TextField()) for c in _columns(model) if c.json_text}
    return queryset.annotate(**texts) if texts else queryset


def of_instance(instance: models.Model, using: str | None = None) -> dict[str, Any]:
    """Image of the state that an instance holds, without its serializer. Raises ``EncodeError``.

    What it holds as an expression is read from the database first, if its row is there.
    """
    columns = _columns(type(instance))
    held = [column.name for column in columns if _is_expression(instance.__dict__.get(column.attname))]
    if held and not instance._state.adding:
        instance.refresh_from_db(using=using, fields=held)
    image: dict[str, Any] = {}
    for column in columns:
        if column.json_text in instance.__dict__:
            text = instance.__dict__[column.json_text]
            image[column.name] = None if text is None else serialization.wire_json(text)
        else:
            image[column.name] = column.encode(getattr(instance, column.attname))
    if links.replicated(type(instance)) and instance.pk is not None:
        alias = using or instance._state.db or router.db_for_write(type(instance), instance=instance)
        image.update(links.lists(type(instance), [instance.pk], alias)[instance.pk])
    return image


def _is_expression(value: Any) -> bool:
    return hasattr(value, "resolve_expression") and not isinstance(value, models.Value)


def related(instance: models.Model, using: str | None = None) -> models.Model:
    """The instance as its serializer is to see it: its row, read by the model's ``relate_cqrs_serialization``.

    An instance that was read that way, or whose row is not there, is taken as it is.
    """
    if instance.__dict__.get(_RELATED) or instance._state.adding:
        return instance
    model: Any = type(instance)
    rows = model._base_manager.using(using or instance._state.db).filter(pk=instance.pk)
    return model.relate_cqrs_serialization(rows).first() or instance


def serialized(instance: models.Model) -> dict[str, Any]:
    """Image by the model's ``CQRS_SERIALIZER``: ``Serializer(instance).data`` with the revision added."""
    serializer = import_string(instance.CQRS_SERIALIZER)  # type: ignore[attr-defined]
    data = {key: serialization.guard(serialization.plain(value)) for key, value in serializer(instance).data.items()}
    data[REVISION_FIELD] = getattr(instance, REVISION_FIELD)
    data[UPDATED_FIELD] = serialization.plain(getattr(instance, UPDATED_FIELD))
    return data


def wire_pk(model: type[models.Model], pk: Any) -> Any:
    """Wire value of a primary key: the same for every Python value by which Django finds the row.

    Outbox rows, tombstones and dead letters know a row by this value's text, so ``1.5`` and ``1.50`` must be one.
    """
    if pk is None:
        return None
    field = serialization.value_field(model._meta.pk)
    if type(pk) is int and isinstance(field, models.IntegerField):
        return pk
    try:
        pk = field.to_python(pk)
        if isinstance(field, models.DecimalField):
            pk = pk.quantize(decimal.Decimal(1).scaleb(-field.decimal_places), context=field.context)
        elif isinstance(field, models.DateTimeField) and timezone.is_aware(pk):
            pk = pk.astimezone(datetime.timezone.utc)
    except Exception:  # a field of the project's may raise anything
        # A key that no row can have still has a text, or else an error that names the field.
        return serialization.encode(field, pk)
    return serialization.encode(field, pk)


def python_pk(model: type[models.Model], text: str) -> Any:
    """Primary key back from the text in which the outbox keeps it."""
    return serialization.decode(model._meta.pk, text)


def is_plain(model: type[models.Model]) -> bool:
    """Whether a row's columns are all that its image needs: no serializer, no ``to_cqrs_dict`` of its own."""
    return (
        not getattr(model, "CQRS_SERIALIZER", None)
        and getattr(model.to_cqrs_dict, "cqrs_default", False)  # type: ignore[attr-defined]
    )


def read(
    model: type[models.Model], texts: Iterable[str], using: str, *, sync: bool = False
) -> dict[str, dict[str, Any] | EncodeError]:
    """Images of the rows with these primary keys (as text) as the database has them now.

    One query for a plain model. A row that is gone is missing in the answer; one whose values cannot be sent has the
    error in its place.
    """
    wanted = set(texts)
    queryset = model._base_manager.using(using).order_by()
    images = _read_keys(model, [python_pk(model, text) for text in wanted], using, sync)
    if not images.keys() <= wanted:
        # The database found rows under another spelling of their key: by a collation without case, for example.
        for text in wanted - images.keys():
            found = read_rows(model, queryset.filter(pk=python_pk(model, text)), using, sync)
            for image in found.values():
                images[text] = image
    return images


def _read_keys(
    model: type[models.Model], keys: list[Any], using: str, sync: bool
) -> dict[str, dict[str, Any] | EncodeError]:
    if keys and is_plain(model):
        query = rowreads.by_keys(model, keys, using, _columns_of_rows(model))
        if query is not None:
            return _with_links(model, _images_of(model, query.execute()), using)
    return read_rows(model, model._base_manager.using(using).order_by().filter(pk__in=keys), using, sync)


def read_rows(
    model: type[models.Model], queryset: models.QuerySet, using: str, sync: bool = True
) -> dict[str, dict[str, Any] | EncodeError]:
    """Images of the rows of a queryset, as ``read`` gives them."""
    if is_plain(model):
        return _with_links(model, read_columns(model, queryset), using)
    queryset = _with_json_texts(model, queryset)
    images: dict[str, dict[str, Any] | EncodeError] = {}
    for instance in model.relate_cqrs_serialization(queryset):  # type: ignore[attr-defined]
        instance.__dict__[_RELATED] = True
        key = serialization.pk_text(wire_pk(model, instance.pk))
        try:
            images[key] = instance.to_cqrs_dict(using=using, sync=sync)
        except EncodeError as error:
            images[key] = error
        except Exception as error:  # a serializer is the user's code: its row is marked, the others go on
            images[key] = EncodeError(f"{model._meta.label} cannot be serialized: {type(error).__name__}: {error}")
    return images


def _with_links(
    model: type[models.Model], images: dict[str, dict[str, Any] | EncodeError], using: str
) -> dict[str, dict[str, Any] | EncodeError]:
    """Add the links. They are read after the rows: what is newer than a row's revision has one of its own."""
    if links.replicated(model):
        keys = {text: python_pk(model, text) for text, image in images.items() if isinstance(image, dict)}
        found = links.lists(model, keys.values(), using)
        for text, pk in keys.items():
            images[text].update(found[pk])  # type: ignore[union-attr]
    return images


def read_columns(model: type[models.Model], queryset: models.QuerySet) -> dict[str, dict[str, Any] | EncodeError]:
    """Wire values by field name of the rows of a queryset, by primary key text; of a replica's rows, too."""
    return _images_of(model, _columns_of_rows(model)(queryset))


def _columns_of_rows(model: type[models.Model]) -> Callable[[models.QuerySet], models.QuerySet]:
    """What makes of a queryset the rows that ``_images_of`` reads: JSON as text alone, all else as Python values."""
    names = [column.json_text or column.attname for column in _columns(model)]
    return lambda queryset: _with_json_texts(model, queryset).values_list(*names)


def _images_of(
    model: type[models.Model], rows: Iterable[Sequence[Any]]
) -> dict[str, dict[str, Any] | EncodeError]:
    columns = _columns(model)
    plan = [(c.name, serialization.wire_json if c.json_text else c.encoder, c.field) for c in columns]
    pk_position = next(i for i, column in enumerate(columns) if column.field.primary_key)
    images: dict[str, dict[str, Any] | EncodeError] = {}
    for row in rows:
        image: dict[str, Any] = {}
        failure: EncodeError | None = None
        for (name, encoder, field), value in zip(plan, row, strict=True):
            try:
                image[name] = value if encoder is None or value is None else encoder(value)
            except Exception as error:  # the methods of the project's fields may raise anything
                failure = EncodeError(f"{field} cannot be sent: {error}")
        images[serialization.pk_text(wire_pk(model, row[pk_position]))] = failure or image
    return images
