"""A lone change of a row that is there, in one statement on PostgreSQL, which is a transaction of its own.

A batch takes five: it begins, locks rows, writes them, asks for dead letters and commits. Here the check of the
revision and the write are one UPDATE, which finds nothing unless all is as it usually is: the row is there at the
revision before the change's, its parents stay the same, and no dead letter is open. Whatever it does not do is left
to the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import ujson
from django.db import DatabaseError, connections

from django_cqrs_celery import linking, links, recordsets, serialization, upserts
from django_cqrs_celery.applying import INFRASTRUCTURE
from django_cqrs_celery.constants import REVISION_FIELD, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.exceptions import ApplyError
from django_cqrs_celery.models import DeadLetter


def is_possible(model: Any, using: str) -> bool:
    """Whether a change of a plain model could ever be brought this way."""
    return (
        recordsets.for_plan(upserts.plan_of(model), using) is not None
        and not links.received(model)
        and not linking.leading_to(model)
    )


def update(model: Any, change: TransportPayload, using: str) -> bool:
    """Bring the row of a plain model from the revision before to that of the change; whether it was done.

    ``OperationalError`` and ``InterfaceError`` are raised; what else goes wrong has changed nothing.
    """
    connection, plan = connections[using], upserts.plan_of(model)
    unpacking = recordsets.for_plan(plan, using)
    if change.signal_type is not SignalType.SAVE or change.revision == 0 or connection.in_atomic_block:
        return False
    if unpacking is None or not is_possible(model, using):
        return False
    row = unpacking.row(change.instance_data)
    if row is None or row.get(plan.pk.attname) is None:
        return False
    try:
        pk = serialization.decode(plan.pk, row[plan.pk.attname])
        with connection.cursor() as cursor:
            cursor.execute(_statement(unpacking, using), _params(unpacking, row, pk, change.revision, connection))
            return cursor.rowcount == 1
    except INFRASTRUCTURE:
        raise
    except (DatabaseError, ApplyError):  # of the row's values or its constraints: the batch finds out which
        return False


def _params(
    unpacking: recordsets.Unpacking, row: Mapping[str, Any], pk: Any, revision: int, connection: Any
) -> list[Any]:
    keys = unpacking.plan.foreign_keys
    return [
        ujson.dumps(row), unpacking.plan.pk.get_db_prep_value(pk, connection), revision - 1, *_OPEN,
        *(key.get_db_prep_value(row.get(key.attname), connection) for key in keys),
    ]  # fmt: skip


_OPEN = DeadLetter.objects.none().OPEN


@cache
def _statement(unpacking: recordsets.Unpacking, using: str) -> str:
    plan, quote = unpacking.plan, connections[using].ops.quote_name
    revision: Any = plan.model._meta.get_field(REVISION_FIELD)
    column_of = {field.attname: quote(str(field.column)) for field in plan.model._meta.concrete_fields}
    names = [name for name, *_ in unpacking.columns]
    sets = ", ".join(f"{column_of[name]} = r.{quote(name)}" for name in names if name != plan.pk.attname)
    unpacked = ", ".join(f"{quote(name)} {sql_type}" for name, _, sql_type, _, _ in unpacking.columns)
    letters = quote(DeadLetter._meta.db_table)
    same_parents = "".join(
        f" AND t.{column_of[key.attname]} IS NOT DISTINCT FROM %s" for key in plan.foreign_keys
    )
    return (
        f"UPDATE {quote(plan.model._meta.db_table)} t SET {sets} FROM json_to_record(%s::json) AS r({unpacked})"
        f" WHERE t.{column_of[plan.pk.attname]} = %s AND t.{quote(revision.column)} = %s"
        f" AND NOT EXISTS (SELECT 1 FROM {letters} WHERE {quote('status')} IN (%s, %s, %s)){same_parents}"
    )
