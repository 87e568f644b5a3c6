"""The triggers on MariaDB and MySQL, which fire for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_cqrs_celery.triggers_plan import MARK, Column, Plan, no_previous_values, previous_values, sealed

#: Each trigger of a set by the end of its name.
SUFFIXES = ("mark", "insert", "update", "delete")
#: What a delete says beside its revision.
GONE = """CONCAT('{"cqrs_updated":"', REPLACE(CAST(UTC_TIMESTAMP(6) AS CHAR), ' ', 'T'), '+00:00"}')"""


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
        cursor.execute(
            "SELECT trigger_name, action_statement FROM information_schema.triggers"
            " WHERE trigger_schema = DATABASE() AND event_object_table = %s",
            [plan.table],
        )
        return {names[name]: (body, True) for name, body in cursor.fetchall() if name in names}


def text(plan: Plan, column: Column, value: str) -> str:
    """Text of the wire value of a column."""
    if column.kind == "text":
        return value
    if column.kind == "uuid" and not plan.native_uuid:
        starts = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
        return f"CONCAT_WS('-', {', '.join(f'SUBSTR({value}, {start}, {size})' for start, size in starts)})"
    if column.kind == "datetime":
        moment = f"REPLACE(CAST({value} AS CHAR), ' ', 'T')"
        return f"CONCAT(IF(MICROSECOND({value}) = 0, LEFT({moment}, 19), {moment}), '+00:00')"
    return f"CAST({value} AS CHAR)"


def json(plan: Plan, column: Column, value: str) -> str:
    """JSON text of the wire value of a column."""
    if column.kind == "boolean":
        return f"IF({value} IS NULL, 'null', IF({value}, 'true', 'false'))"
    if column.kind in ("integer", "float"):
        return f"IFNULL(CAST({value} AS CHAR), 'null')"
    return f"IFNULL(JSON_QUOTE({text(plan, column, value)}), 'null')"


def _statements(plan: Plan, print_: str) -> list[str]:
    quote = plan.quote
    table, outbox = quote(plan.table), quote(plan.outbox)
    key, revision, updated = quote(plan.key.column), quote(plan.revision), quote(plan.updated)
    cqrs_id = plan.literal(plan.cqrs_id)
    save = f"INSERT INTO {outbox} (signal_type, cqrs_id, instance_pk"
    new_pk, old_pk = text(plan, plan.key, f"NEW.{key}"), text(plan, plan.key, f"OLD.{key}")
    # Told by BEFORE INSERT to AFTER INSERT of the same row, of which the key may be counted up in between.
    told = f"@{plan.name}"
    delete = (
        f"INSERT INTO {outbox} (signal_type, cqrs_id, instance_pk, revision, instance_data) VALUES"
        f" ('DELETE', {cqrs_id}, {old_pk}, OLD.{revision} + 1, {GONE})"
    )
    last_delete = (
        f"(SELECT MAX(d.revision) FROM {outbox} d WHERE d.signal_type = 'DELETE' AND d.cqrs_id = {cqrs_id}"
        f" AND d.instance_pk = {new_pk})"
    )

    def same(column: str) -> str:
        return f"BINARY OLD.{quote(column)} <=> BINARY NEW.{quote(column)}"

    unchanged = " AND ".join(map(same, plan.compared))
    names, values = "", ""
    if plan.tracked:
        previous = previous_values(
            plan, lambda c: f"NOT ({same(c)})", lambda c: json(plan, c, f"OLD.{quote(c.column)}"), ","
        )
        names, values = ", previous_data", f", NULLIF(CONCAT('{{', SUBSTR(CONCAT({previous}), 2), '}}'), '{{}}')"
    nothing = no_previous_values(plan)
    new_names, new_values = (", previous_data", f", {nothing}") if nothing else ("", "")

    def trigger(suffix: str, event: str, body: str) -> str:
        # Not a comment: the command line client leaves those out.
        return (
            f"CREATE TRIGGER {quote(plan.trigger(suffix))} {event} ON {table} FOR EACH ROW BEGIN\n"
            f"    DECLARE capture CHAR(64) DEFAULT '{MARK} {print_}';\n    {body}\nEND"
        )

    mark = f"""DECLARE deleted INT;
    SET {told} = NEW.{revision} < 0;
    IF NEW.{revision} < 0 THEN
        SET NEW.{revision} = -NEW.{revision} - 1;
    ELSE
        SET deleted = {last_delete};
        IF deleted >= NEW.{revision} THEN
            SET NEW.{revision} = deleted + 1;
        END IF;
    END IF;"""
    # A delete of the same key that commits while this INSERT waits for it comes too late for the look-up above: with
    # revision 0 the outbox row says that it is to be looked up again when it is published.
    inserted = f"""IF NOT {told} THEN
        {save}, revision{new_names}) VALUES ('SAVE', {cqrs_id}, {new_pk}, 0{new_values});
    END IF;"""
    updated_body = f"""DECLARE deleted INT;
    IF NEW.{revision} < 0 THEN
        SET NEW.{revision} = -NEW.{revision} - 1;
    ELSEIF NEW.{revision} > OLD.{revision} OR NOT ({unchanged}) THEN
        IF NEW.{revision} <= OLD.{revision} THEN
            SET NEW.{revision} = OLD.{revision} + 1;
        END IF;
        IF NEW.{updated} <=> OLD.{updated} THEN
            SET NEW.{updated} = UTC_TIMESTAMP(6);
        END IF;
        IF NEW.{key} <> OLD.{key} THEN
            {delete};
            SET deleted = {last_delete};
            IF deleted >= NEW.{revision} THEN
                SET NEW.{revision} = deleted + 1;
            END IF;
        END IF;
        {save}{names}) VALUES ('SAVE', {cqrs_id}, {new_pk}{values});
    ELSE
        SET NEW.{revision} = OLD.{revision};
    END IF;"""
    return [
        trigger("mark", "BEFORE INSERT", mark),
        trigger("insert", "AFTER INSERT", inserted),
        trigger("update", "BEFORE UPDATE", updated_body),
        trigger("delete", "AFTER DELETE", f"{delete};"),
    ]
