"""Set-based writes to one replica table: lock, upsert, delete, a few statements for any number of rows.

The check of the revision and the write are one atomic step: rows that exist are locked before they are compared; rows
that do not exist are inserted on the condition that nobody else has inserted a newer one meanwhile.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import connections, models
from django.db.models import NOT_PROVIDED

from django_cqrs_celery import serialization
from django_cqrs_celery.constants import REVISION_FIELD
from django_cqrs_celery.exceptions import ApplyError
from django_cqrs_celery.managers import missing_fields, need_fields, replica_fields
from django_cqrs_celery.models import Tombstone

#: Primary key text of the tombstone row that serves as a lock where the database has no shared advisory locks.
GATE = ""
_ROWS_PER_STATEMENT = 500


@dataclass(frozen=True)
class Column:
    """A replica column and where its value comes from."""

    field: models.Field
    #: Keys under which the master may send it.
    keys: tuple[str, ...]
    decode: Any


@dataclass(frozen=True)
class Plan:
    """How changes become rows of one replica table."""

    model: type[models.Model]
    columns: tuple[Column, ...]
    #: Fields that no change fills, by what a new row gets.
    unfilled: tuple[models.Field, ...]
    foreign_keys: tuple[models.ForeignKey, ...]

    @property
    def pk(self) -> models.Field:
        """The replica's primary key field."""
        return self.model._meta.pk

    def values(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Python values by attribute name. Raises ``ApplyError``, which names the field."""
        row: dict[str, Any] = {}
        for column in self.columns:
            for key in column.keys:
                if key in data:
                    value = data[key]
                    row[column.field.attname] = None if value is None else _decode(column, value)
                    break
        return row


def _decode(column: Column, value: Any) -> Any:
    try:
        return column.decode(value)
    except Exception as error:  # to_python of any field may raise anything
        raise ApplyError(f"{column.field} cannot take the {type(value).__name__} of the message.") from error


@cache
def plan_of(model: type[models.Model]) -> Plan:
    """The plan of a replica model."""
    columns = []
    for master_name, field in replica_fields(model).items():
        keys = (master_name,) if master_name == field.attname else (master_name, field.attname)
        columns.append(Column(field, keys, serialization.decoder_for(field)))
    filled = {column.field for column in columns}
    unfilled = tuple(
        f for f in model._meta.concrete_fields if f not in filled and not isinstance(f, models.GeneratedField)
    )
    foreign_keys = tuple(
        f for f in model._meta.concrete_fields if isinstance(f, models.ForeignKey) and getattr(f, "db_constraint", True)
    )
    return Plan(model, tuple(columns), unfilled, foreign_keys)


def lock(model: type[models.Model], pks: Sequence[Any], using: str) -> dict[Any, int]:
    """Revision by primary key of the rows that exist, locked in primary key order until the transaction ends."""
    if connections[using].vendor == "postgresql" and not model._meta.parents:
        return _lock_by_array(model, list(pks), using)
    found: dict[Any, int] = {}
    for rows in _locking(model, pks, using):
        found.update(rows.values_list("pk", REVISION_FIELD))
    return found


def locked_rows(model: type[models.Model], pks: Sequence[Any], using: str) -> Iterator[models.Model]:
    """The rows that exist, locked in primary key order until the transaction ends."""
    for rows in _locking(model, pks, using):
        yield from rows


def _locking(model: type[models.Model], pks: Sequence[Any], using: str) -> Iterator[models.QuerySet]:
    rows = model._base_manager.using(using).order_by("pk")
    if connections[using].features.has_select_for_update:
        rows = rows.select_for_update(of=("self",) if connections[using].features.has_select_for_update_of else ())
    for start in range(0, len(pks), _ROWS_PER_STATEMENT):
        yield rows.filter(pk__in=pks[start : start + _ROWS_PER_STATEMENT])


def _lock_by_array(model: type[models.Model], pks: list[Any], using: str) -> dict[Any, int]:
    connection = connections[using]
    quote = connection.ops.quote_name
    pk: Any = model._meta.pk
    revision: Any = model._meta.get_field(REVISION_FIELD)
    key = quote(pk.column)
    sql = (
        f"SELECT {key}, {quote(revision.column)} FROM {quote(model._meta.db_table)}"
        f" WHERE {key} = ANY(%s) ORDER BY {key} FOR UPDATE"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [[pk.get_db_prep_value(value, connection) for value in pks]])
        rows = cursor.fetchall()
    if pks and isinstance(pks[0], (int, str)):
        return dict(rows)
    return {pk.to_python(key): number for key, number in rows}


def begin_write(using: str) -> None:
    """Take the write lock of a database that cannot lock rows, before anything is read."""
    if not connections[using].features.has_select_for_update:
        Tombstone.objects.using(using).filter(pk=-1).update(revision=0)


def gate(model: type[models.Model], using: str, *, exclusive: bool) -> None:
    """Keep creating a row and deleting a row that is not there apart; there is no row that both could lock.

    Who inserts rows shares the gate; who remembers the delete of a missing row holds it alone, until the transaction
    ends.
    """
    connection = connections[using]
    table = model._meta.db_table
    if connection.vendor == "postgresql":
        function = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {function}(%s, %s)", [_signed(b"cqrs"), _signed(table.encode())])
    elif connection.vendor == "mysql":
        quote = connection.ops.quote_name
        tombstones = quote(Tombstone._meta.db_table)
        where = f"WHERE {quote('cqrs_id')} = %s AND {quote('instance_pk')} = %s"
        mode = "FOR UPDATE" if exclusive else "LOCK IN SHARE MODE"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {quote('id')} FROM {tombstones} {where} {mode}", [table[:128], GATE])
            if cursor.fetchone() is None:
                cursor.execute(
                    f"INSERT INTO {tombstones} ({quote('cqrs_id')}, {quote('instance_pk')}, {quote('revision')})"
                    f" VALUES (%s, %s, -1) ON DUPLICATE KEY UPDATE {quote('revision')} = -1",
                    [table[:128], GATE],
                )


def _signed(data: bytes) -> int:
    value = zlib.crc32(data)
    return value - 2**32 if value >= 2**31 else value


def write(
    plan: Plan, rows: Sequence[dict[str, Any]], using: str, *, existing: bool, conditional: bool = True
) -> None:
    """Upsert rows of Python values.

    ``existing``: the rows are there and locked; else they were not there when looked for. ``conditional``: an existing
    row is only overwritten by a newer revision.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    for names, group in groups.items():
        if existing and not _can_insert(plan, names):
            for row in group:
                values = {name: value for name, value in row.items() if name != plan.pk.attname}
                if not plan.model._base_manager.using(using).filter(pk=row[plan.pk.attname]).update(**values):
                    raise ApplyError("The row went with its parent, and the change has not all that a new one needs.")
            continue
        _write_group(plan, names, group, using, existing=existing, conditional=conditional)


def _can_insert(plan: Plan, names: Sequence[str]) -> bool:
    return not missing_fields(plan.model, names)


def _write_group(
    plan: Plan,
    names: tuple[str, ...],
    rows: Sequence[dict[str, Any]],
    using: str,
    *,
    existing: bool,
    conditional: bool,
) -> None:
    need_fields(plan.model, names)
    connection = connections[using]
    by_attname = {field.attname: field for field in plan.model._meta.concrete_fields}
    fields = [by_attname[name] for name in names]
    extra = [f for f in plan.model._meta.concrete_fields if f.attname not in names and _insertable(f)]
    prepare = [field.get_db_prep_save for field in fields]
    placeholders = _placeholders([*fields, *extra], plan.model, using)
    head, tail = _statement(plan, fields, extra, using, existing=existing, conditional=conditional)
    limit = connection.features.max_query_params
    size = _ROWS_PER_STATEMENT if not limit else max(1, min(_ROWS_PER_STATEMENT, limit // (len(fields) + len(extra))))
    with connection.cursor() as cursor:
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            params: list[Any] = []
            for row in chunk:
                params.extend([prep(value, connection) for prep, value in zip(prepare, row.values(), strict=True)])
                params.extend([_default(field, connection) for field in extra])
            cursor.execute(f"{head} {placeholders(params, len(chunk))} {tail}", params)


def _insertable(field: models.Field) -> bool:
    return not isinstance(field, (models.GeneratedField, models.AutoField))


def _default(field: models.Field, connection: Any) -> Any:
    value = field.pre_save(field.model(), True) if _stamps(field) else field.get_default()
    return field.get_db_prep_save(value, connection)


def constant_defaults(plan: Plan) -> list[tuple[models.Field, Any]] | None:
    """What a new row gets in columns that no change fills; None where that differs from row to row, or is missing."""
    constants: list[tuple[models.Field, Any]] = []
    for field in plan.unfilled:
        if not _insertable(field):
            continue
        if _stamps(field) or callable(field.default) or (field.default is NOT_PROVIDED and not field.null):
            return None
        constants.append((field, field.get_default()))
    return constants


def _stamps(field: models.Field) -> bool:
    return getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)


def _statement(
    plan: Plan,
    fields: Sequence[models.Field],
    extra: Sequence[models.Field],
    using: str,
    *,
    existing: bool,
    conditional: bool,
) -> tuple[str, str]:
    """The parts of the INSERT: up to VALUES, and what happens where the row exists."""
    connection = connections[using]
    quote = connection.ops.quote_name
    table = quote(plan.model._meta.db_table)
    columns = [quote(str(field.column)) for field in [*fields, *extra]]
    head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES"
    updated = [quote(str(field.column)) for field in fields if not field.primary_key]
    if connection.vendor == "mysql":
        # Without ON DUPLICATE KEY for a new row: it would also fire for another unique column and change a wrong row.
        sets = ", ".join(f"{column} = VALUES({column})" for column in updated)
        return head, f"ON DUPLICATE KEY UPDATE {sets}" if existing else ""
    sets = ", ".join(f"{column} = EXCLUDED.{column}" for column in updated)
    tail = f"ON CONFLICT ({quote(str(plan.pk.column))}) DO UPDATE SET {sets}"
    if conditional:
        revision = quote(REVISION_FIELD)
        tail += f" WHERE {table}.{revision} < EXCLUDED.{revision}"
    return head, tail


def _placeholders(
    fields: Sequence[models.Field], model: type[models.Model], using: str
) -> Callable[[Sequence[Any], int], str]:
    """Function from the parameters of some rows, and their number, to what stands for them after VALUES."""
    width, connection = len(fields), connections[using]
    special = {i: field.get_placeholder for i, field in enumerate(fields) if hasattr(field, "get_placeholder")}
    if not special:
        row = f"({', '.join(['%s'] * width)})"
        return lambda params, count: ", ".join([row] * count)
    compiler = model._base_manager.using(using).query.get_compiler(using)

    def of(params: Sequence[Any], count: int) -> str:
        # Bytes on MariaDB, arrays on PostgreSQL: what stands for a value depends on the value.
        signs = ["%s"] * (width * count)
        for position, placeholder in special.items():
            for i in range(position, width * count, width):
                signs[i] = placeholder(params[i], compiler, connection)
        return ", ".join(f"({', '.join(signs[i : i + width])})" for i in range(0, width * count, width))

    return of


def delete(model: type[models.Model], pks: Sequence[Any], using: str) -> None:
    """Delete locked rows, with whatever Django deletes along with them."""
    rows = model._base_manager.using(using)
    # The links of a row's own many-to-many fields are among what goes along.
    related = [*model._meta.related_objects, *model._meta.many_to_many]
    for start in range(0, len(pks), _ROWS_PER_STATEMENT):
        chunk = rows.filter(pk__in=pks[start : start + _ROWS_PER_STATEMENT])
        if related:
            chunk.delete()
        else:
            chunk._raw_delete(using)


def missing_parents(
    field: models.ForeignKey, values: Sequence[Any], using: str
) -> set[Any]:
    """Which of the values of a foreign key refer to no row."""
    wanted = {value for value in values if value is not None}
    if not wanted:
        return set()
    target = field.target_field
    rows = field.related_model._base_manager.using(using).order_by()
    found: set[Any] = set()
    ordered = list(wanted)
    for start in range(0, len(ordered), _ROWS_PER_STATEMENT):
        chunk = ordered[start : start + _ROWS_PER_STATEMENT]
        found.update(rows.filter(**{f"{target.attname}__in": chunk}).values_list(target.attname, flat=True))
    return wanted - found
