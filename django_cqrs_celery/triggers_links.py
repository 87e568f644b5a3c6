"""The triggers on the tables of links: a link that is made or broken raises the revision of its owner.

They write the owner's revision and leave the rest to the triggers of the owner's own table, which promise the change.
A link that is written without being made, moved or broken raises nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django_cqrs_celery import links, triggers_mysql, triggers_postgresql
from django_cqrs_celery.constants import RAISE
from django_cqrs_celery.triggers_plan import MARK, Column, Plan, sealed

#: Each trigger of a set by the end of its name, by engine.
SUFFIXES = {
    "postgresql": ("insert", "update", "delete", "truncate"),
    "mysql": ("lock", "insert", "update", "delete"),
    "sqlite": ("insert", "update", "delete"),
}


@dataclass(frozen=True, kw_only=True)
class LinkPlan(Plan):
    """The triggers of one table of links.

    ``table``: of the links. ``owner``, ``target``: its columns that name the two rows. ``master``: the owner's table.
    ``key``: its column that ``owner`` refers to. Nothing is compared or tracked.
    """

    owner: str
    target: str
    master: str


def name_of(base: str, field: str) -> str:
    """Name of the triggers of the links of one field, of those of the model's own table."""
    return f"{base}_{hashlib.sha256(field.encode()).hexdigest()[:6]}"


def install(vendor: str, plan: LinkPlan) -> list[str]:
    """Statements that create the triggers, or create them anew."""
    created = sealed(plan, _STATEMENTS[vendor])
    return created if vendor == "postgresql" else [*uninstall(vendor, plan.name, plan.quote), *created]


def uninstall(vendor: str, name: str, quote: Callable[[str], str]) -> list[str]:
    """Statements that take the triggers away; they need not know the tables."""
    if vendor == "postgresql":
        return [f"DROP FUNCTION IF EXISTS {quote(f'{name}_{suffix}')}() CASCADE" for suffix in SUFFIXES[vendor]]
    return [f"DROP TRIGGER IF EXISTS {quote(f'{name}_{suffix}')}" for suffix in SUFFIXES[vendor]]


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def _on_postgresql(plan: Any, print_: str) -> list[str]:
    """Once for each statement. The owners are locked in the order of their keys, as Django's own writes lock them."""
    quote = plan.quote
    owner, target = quote(plan.owner), quote(plan.target)
    master, key, revision = quote(plan.master), quote(plan.key.column), quote(plan.revision)
    pairs = f"SELECT {owner}, {target} FROM "
    moved = (
        f"SELECT c.{owner} FROM (({pairs}cqrs_old EXCEPT ALL {pairs}cqrs_new)"
        f" UNION ALL ({pairs}cqrs_new EXCEPT ALL {pairs}cqrs_old)) c"
    )
    new, old = (f"SELECT {owner} FROM {rows}" for rows in ("cqrs_new", "cqrs_old"))

    def raising(owners: str) -> str:
        return (
            f"PERFORM FROM {master} m WHERE m.{key} IN ({owners}) ORDER BY m.{key} FOR NO KEY UPDATE;\n"
            f"    UPDATE {master} SET {revision} = {revision} + 1 WHERE {key} IN ({owners});"
        )

    truncated = (
        plan.literal(f"UPDATE {master} SET {revision} = {revision} + 1 WHERE {key} IN (SELECT {owner} FROM ")
        + " || TG_RELID::regclass || ')'"
    )
    both = "REFERENCING OLD TABLE AS cqrs_old NEW TABLE AS cqrs_new "
    functions = {
        "insert": (raising(new), "AFTER INSERT", "REFERENCING NEW TABLE AS cqrs_new "),
        "update": (raising(moved), "AFTER UPDATE", both),
        "delete": (raising(old), "AFTER DELETE", "REFERENCING OLD TABLE AS cqrs_old "),
        "truncate": (f"EXECUTE {truncated};", "BEFORE TRUNCATE", ""),
    }
    created = [
        f"CREATE OR REPLACE FUNCTION {quote(plan.trigger(suffix))}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        f" SET search_path = @path@ AS $cqrs$\n-- {MARK} {print_}\nBEGIN\n    {body}\n    RETURN NULL;\nEND\n$cqrs$"
        for suffix, (body, _, _) in functions.items()
    ]
    return [
        triggers_postgresql.created(created, plan),
        *(_trigger(plan, suffix, event, rows) for suffix, (_, event, rows) in functions.items()),
    ]


def _trigger(plan: Any, suffix: str, event: str, referencing: str) -> str:
    own, table = plan.trigger(suffix), plan.quote(plan.table)
    function, name = plan.quote(own), plan.quote(f"zz_{own}")
    return (
        f"DROP TRIGGER IF EXISTS {name} ON {table};"
        f" CREATE TRIGGER {name} {event} ON {table} {referencing}FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
    )


# --- MariaDB and MySQL -----------------------------------------------------------------------------------------------


def _on_mysql(plan: Any, print_: str) -> list[str]:
    """For each row.

    A trigger may not write to a table that its statement reads (``DELETE … WHERE article_id IN (SELECT …)``, error
    1442). The outbox row then says that the revision is to be raised when the change is published.
    """
    quote = plan.quote
    owner, target = quote(plan.owner), quote(plan.target)
    master, key, revision = quote(plan.master), quote(plan.key.column), quote(plan.revision)

    def raising(row: str) -> str:
        pk = triggers_mysql.text(plan, plan.key, f"{row}.{owner}")
        return (
            "BEGIN\n"
            f"        DECLARE CONTINUE HANDLER FOR 1442 INSERT INTO {quote(plan.outbox)}"
            " (signal_type, cqrs_id, instance_pk, revision)"
            f" VALUES ('SAVE', {plan.literal(plan.cqrs_id)}, {pk}, {RAISE});\n"
            f"        UPDATE {master} SET {revision} = {revision} + 1 WHERE {key} = {row}.{owner};\n"
            "    END;"
        )

    def same(column: str) -> str:
        return f"BINARY OLD.{column} <=> BINARY NEW.{column}"

    # A foreign key locks its parent as a reader before AFTER INSERT makes a writer of it: two that link the same owner
    # would wait for each other for ever.
    lock = (
        "DECLARE held INT;\n    DECLARE CONTINUE HANDLER FOR 1442 BEGIN END;\n"
        f"    SELECT MAX({revision}) INTO held FROM {master} WHERE {key} = NEW.{owner} FOR UPDATE;"
    )
    moved = (
        f"IF NOT ({same(owner)}) THEN\n    {raising('OLD')}\n    END IF;\n"
        f"    IF NOT ({same(owner)} AND {same(target)}) THEN\n    {raising('NEW')}\n    END IF;"
    )

    def trigger(suffix: str, event: str, body: str) -> str:
        return (
            f"CREATE TRIGGER {quote(plan.trigger(suffix))} {event} ON {quote(plan.table)} FOR EACH ROW BEGIN\n"
            f"    DECLARE capture CHAR(64) DEFAULT '{MARK} {print_}';\n    {body}\nEND"
        )

    return [
        trigger("lock", "BEFORE INSERT", lock),
        trigger("insert", "AFTER INSERT", raising("NEW")),
        trigger("update", "AFTER UPDATE", moved),
        trigger("delete", "AFTER DELETE", raising("OLD")),
    ]


# --- SQLite ----------------------------------------------------------------------------------------------------------


def _on_sqlite(plan: Any, print_: str) -> list[str]:
    """For each row, after it was written."""
    quote = plan.quote
    owner, target = quote(plan.owner), quote(plan.target)
    revision = quote(plan.revision)
    moved = f"OLD.{owner} IS NOT NEW.{owner} OR OLD.{target} IS NOT NEW.{target}"

    def trigger(suffix: str, event: str, owners: str) -> str:
        return (
            f"CREATE TRIGGER {quote(plan.trigger(suffix))} AFTER {event} ON {quote(plan.table)} FOR EACH ROW"
            f"{f' WHEN {moved}' if event == 'UPDATE' else ''} BEGIN\n    -- {MARK} {print_}\n"
            f"    UPDATE {quote(plan.master)} SET {revision} = {revision} + 1"
            f" WHERE {quote(plan.key.column)} IN ({owners});\nEND"
        )

    return [
        trigger("insert", "INSERT", f"NEW.{owner}"),
        trigger("update", "UPDATE", f"OLD.{owner}, NEW.{owner}"),
        trigger("delete", "DELETE", f"OLD.{owner}"),
    ]


_STATEMENTS: dict[str, Callable[[Any, str], list[str]]] = {
    "postgresql": _on_postgresql, "mysql": _on_mysql, "sqlite": _on_sqlite,
}  # fmt: skip


def ends(field: Any) -> tuple[Any, Any] | None:
    """The foreign keys of a link, also between two operations of a migration; None where they lead elsewhere by then.

    There the models of links may still refer to classes that others have replaced; their labels are right.
    """
    if not links.is_resolved(field):
        return None
    if field.m2m_field_name() and field.m2m_reverse_field_name():
        return links.ends(field)
    options: Any = links.through(field)._meta
    if field.remote_field.through_fields:
        owner, target = map(options.get_field, field.remote_field.through_fields[:2])
        return owner, target
    keys = [key for key in options.local_concrete_fields if key.remote_field]
    labels = [key.related_model._meta.label_lower for key in keys]
    own, others = field.model._meta.label_lower, field.related_model._meta.label_lower
    if own not in labels or others not in labels:
        return None
    return keys[labels.index(own)], keys[len(labels) - 1 - labels[::-1].index(others)]


def plan_of(field: Any, between: tuple[Any, Any], own: Plan) -> LinkPlan:
    """The plan of the links of one field ``between`` two rows, of that of the model's own table."""
    owner, target = between
    return LinkPlan(
        name=name_of(own.name, field.name),
        cqrs_id=own.cqrs_id,
        table=links.through(field)._meta.db_table,
        key=Column.of(owner.target_field),
        compared=(),
        tracked=(),
        revision=own.revision,
        updated=own.updated,
        outbox=own.outbox,
        quote=own.quote,
        native_uuid=own.native_uuid,
        owner=str(owner.column),
        target=str(target.column),
        master=own.table,
    )
