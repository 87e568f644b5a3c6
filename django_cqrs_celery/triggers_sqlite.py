"""The triggers on SQLite: they fire for each row after it was written, and write it once more where they must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_cqrs_celery.triggers_plan import MARK, Column, Plan, no_previous_values, previous_values, sealed

#: Each trigger of a set by the end of its name.
SUFFIXES = ("insert", "update", "delete")
#: The present moment as Django writes it; the percent signs are put in by SQLite.
NOW = "strftime(replace('!Y-!m-!d !H:!M:!f', '!', char(37)), 'now')"
#: What a delete says beside its revision.
GONE = f"""'{{"cqrs_updated":"' || replace({NOW}, ' ', 'T') || '+00:00"}}'"""


def install(plan: Plan) -> list[str]:
    """Statements that create the triggers; those that exist are taken away before."""
    return [*uninstall(plan), *sealed(plan, _statements)]


def uninstall(plan: Plan) -> list[str]:
    """Statements that take the triggers away."""
    return [f"DROP TRIGGER IF EXISTS {plan.quote(plan.trigger(suffix))}" for suffix in SUFFIXES]


def found(connection: Any, plan: Plan, suffixes: Sequence[str] = SUFFIXES) -> dict[str, tuple[str, bool]]:
    """What is installed: body and whether it is enabled, by suffix."""
    names = {plan.trigger(suffix): suffix for suffix in suffixes}
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", [plan.table])
        return {names[name]: (body, True) for name, body in cursor.fetchall() if name in names}


def text(column: Column, value: str) -> str:
    """Text of the wire value of a column."""
    if column.kind in ("text", "date"):
        return value
    if column.kind == "uuid":
        starts = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
        return " || '-' || ".join(f"substr({value}, {start}, {size})" for start, size in starts)
    if column.kind == "datetime":
        return f"replace({value}, ' ', 'T') || '+00:00'"
    if column.kind == "decimal":
        return f"printf(char(37) || '.{column.places}f', {value})"
    return f"CAST({value} AS TEXT)"


def json(column: Column, value: str) -> str:
    """JSON text of the wire value of a column."""
    if column.kind == "boolean":
        return f"CASE WHEN {value} IS NULL THEN 'null' WHEN {value} THEN 'true' ELSE 'false' END"
    if column.kind in ("integer", "float"):
        return f"json_quote({value})"
    return f"CASE WHEN {value} IS NULL THEN 'null' ELSE json_quote({text(column, value)}) END"


def _statements(plan: Plan, print_: str) -> list[str]:
    quote = plan.quote
    table, outbox = quote(plan.table), quote(plan.outbox)
    key, revision, updated = quote(plan.key.column), quote(plan.revision), quote(plan.updated)
    cqrs_id = plan.literal(plan.cqrs_id)
    new_pk, old_pk = text(plan.key, f"NEW.{key}"), text(plan.key, f"OLD.{key}")
    save = f"INSERT INTO {outbox} (signal_type, cqrs_id, instance_pk"
    delete = (
        f"INSERT INTO {outbox} (signal_type, cqrs_id, instance_pk, revision, instance_data)"
        f" SELECT 'DELETE', {cqrs_id}, {old_pk}, OLD.{revision} + 1, {GONE}"
    )
    last_delete = (
        f"(SELECT max(d.revision) FROM {outbox} d WHERE d.signal_type = 'DELETE' AND d.cqrs_id = {cqrs_id}"
        f" AND d.instance_pk = {new_pk})"
    )
    changed = " OR ".join(f"OLD.{quote(column)} IS NOT NEW.{quote(column)}" for column in plan.compared)
    names, values = "", ""
    if plan.tracked:
        previous = previous_values(
            plan, lambda c: f"OLD.{quote(c)} IS NOT NEW.{quote(c)}", lambda c: json(c, f"OLD.{quote(c.column)}"), "||"
        )
        names, values = ", previous_data", f", nullif('{{' || substr({previous}, 2) || '}}', '{{}}')"
    nothing = no_previous_values(plan)
    new_names, new_values = (", previous_data", f", {nothing}") if nothing else ("", "")

    def trigger(suffix: str, event: str, condition: str, *body: str) -> str:
        when = f"WHEN {condition} " if condition else ""
        statements = "".join(f"    {statement};\n" for statement in body)
        return (
            f"CREATE TRIGGER {quote(plan.trigger(suffix))} AFTER {event} ON {table} FOR EACH ROW {when}BEGIN\n"
            f"    -- {MARK} {print_}\n{statements}END"
        )

    row = f"UPDATE {table} SET {revision} = {{value}} WHERE {key} = NEW.{key}".format
    return [
        trigger(
            "insert", "INSERT", "",
            f"{save}{new_names}) SELECT 'SAVE', {cqrs_id}, {new_pk}{new_values} WHERE NEW.{revision} >= 0",
            row(value=f"-NEW.{revision} - 1") + f" AND NEW.{revision} < 0",
            # A value below zero is one that the trigger of updates takes as it is.
            row(value=f"-{last_delete} - 2") + f" AND NEW.{revision} <= {last_delete}",
        ),
        trigger(
            "update", "UPDATE", f"OLD.{revision} >= 0 AND (NEW.{revision} IS NOT OLD.{revision} OR {changed})",
            f"{delete} WHERE NEW.{key} IS NOT OLD.{key}",
            f"{save}{names}) SELECT 'SAVE', {cqrs_id}, {new_pk}{values}"
            f" WHERE NEW.{revision} > OLD.{revision} OR (NEW.{revision} >= 0 AND ({changed}))",
            f"UPDATE {table} SET {revision} = CASE WHEN NEW.{revision} < 0 THEN -NEW.{revision} - 1"
            f" WHEN NEW.{revision} > OLD.{revision} THEN NEW.{revision} WHEN {changed} THEN OLD.{revision} + 1"
            f" ELSE OLD.{revision} END, {updated} = CASE WHEN NEW.{revision} >= 0"
            f" AND NEW.{updated} IS OLD.{updated} AND (NEW.{revision} > OLD.{revision} OR {changed}) THEN {NOW}"
            f" ELSE NEW.{updated} END WHERE {key} = NEW.{key}"
            f" AND (NEW.{revision} <= OLD.{revision} OR NEW.{updated} IS OLD.{updated})",
            row(value=f"{last_delete} + 1") + f" AND NEW.{key} IS NOT OLD.{key} AND {revision} <= {last_delete}",
        ),
        trigger("delete", "DELETE", "", delete),
    ]  # fmt: skip
