"""On PostgreSQL: the triggers of a model whose row is spread over several tables. They fire for each row.

Two transactions may write two parts of one row at the same time. So whoever adds a part locks the others first, and a
write to one of them sees the new part, or is there before it is promised. The functions look up by index, whatever the
tables held when a session made its plans (``enable_seqscan``).
"""

from __future__ import annotations

from collections.abc import Callable

from django_cqrs_celery import triggers_postgresql
from django_cqrs_celery.constants import RAISE
from django_cqrs_celery.triggers_plan import MARK, no_previous_values, previous_values, sealed
from django_cqrs_celery.triggers_postgresql import GONE, json, text
from django_cqrs_celery.triggers_spread import SpreadPlan

#: Each trigger of a set by the end of its name, by part.
SUFFIXES = {
    "parent": ("update",), "child": ("insert", "update", "delete", "truncate"), "holder": ("update", "delete"),
    "guard": ("guard",),
}  # fmt: skip
#: A statement of such a transaction does not see what was committed meanwhile: that it finds no row says nothing.
_BLIND = "current_setting('transaction_isolation') <> 'read committed'"
_DELETE = "INSERT INTO @outbox@ (signal_type, cqrs_id, instance_pk, revision, instance_data)"


def install(plan: SpreadPlan) -> list[str]:
    """Statements that create the triggers of one table."""
    return sealed(plan, _statements)  # type: ignore[arg-type]


def _statements(plan: SpreadPlan, print_: str) -> list[str]:
    functions, triggers = [], []
    for suffix in SUFFIXES[plan.part]:
        event, write = _TRIGGERS[plan.part, suffix]
        body, name, own = write(plan), plan.quote(f"zz_{plan.trigger(suffix)}"), plan.quote(plan.trigger(suffix))
        mark = triggers_postgresql.dollars(body)
        functions.append(
            f"CREATE OR REPLACE FUNCTION {own}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            f" SET search_path = @path@ SET enable_seqscan = off AS {mark}\n-- {MARK} {print_}\n"
            f"DECLARE\n    previous text;\n    deleted integer;\nBEGIN\n    {body}\n"
            f"    RETURN {'OLD' if event == 'BEFORE DELETE' else 'NULL'};\nEND\n{mark}"
        )
        table, each = plan.quote(plan.table), "STATEMENT" if suffix == "truncate" else "ROW"
        triggers.append(
            f"DROP TRIGGER IF EXISTS {name} ON {table};"
            f" CREATE TRIGGER {name} {event} ON {table} FOR EACH {each} EXECUTE FUNCTION {own}()"
        )
    return [triggers_postgresql.created(functions, plan), *triggers]


# --- what they say ---------------------------------------------------------------------------------------------------


def _pk(plan: SpreadPlan, row: str) -> str:
    return text(plan.key, f"{row}.{plan.quote(plan.key.column)}")


def _key(plan: SpreadPlan, row: str) -> str:
    return f"{row}.{plan.quote(plan.key.column)}"


def _save(plan: SpreadPlan, column: str = "", value: str = "") -> str:
    names, values = (f", {column}", f", {value}") if column else ("", "")
    return (
        f"INSERT INTO @outbox@ (signal_type, cqrs_id, instance_pk{names})"
        f" VALUES ('SAVE', {plan.literal(plan.cqrs_id)}, {_pk(plan, 'NEW')}{values});"
    )


def _gone(plan: SpreadPlan, revision: str, rows: str, row: str = "OLD") -> str:
    own = f"'DELETE', {plan.literal(plan.cqrs_id)}, {_pk(plan, row)}, {revision} + 1, {GONE}"
    return f"{_DELETE} SELECT {own} FROM {rows};"


def _changed(plan: SpreadPlan) -> str:
    if not plan.compared:
        return "false"
    before, after = (f"ROW({', '.join(f'{row}.{plan.quote(c)}' for c in plan.compared)})" for row in ("OLD", "NEW"))
    return f"record_image_ne({before}, {after})"


def _is_there(plan: SpreadPlan) -> str:
    return f"(EXISTS (SELECT FROM {plan.row(plan.own, _key(plan, 'NEW'))}) OR {_BLIND})"


def _noted(plan: SpreadPlan) -> str:
    """Previous values of tracked columns, in an outbox row of their own: the oldest count when all are published."""
    quote = plan.quote
    if not plan.tracked:
        return ""
    previous = previous_values(
        plan, lambda c: f"OLD.{quote(c)} IS DISTINCT FROM NEW.{quote(c)}",
        lambda c: json(c, f"OLD.{quote(c.column)}"), "||",
    )  # fmt: skip
    return f"previous := nullif('{{' || substr({previous}, 2) || '}}', '{{}}');"


def _raising(plan: SpreadPlan) -> str:
    revision, updated = plan.quote(plan.revision), plan.quote(plan.updated)
    table, condition = plan.row(plan.holder, _key(plan, "NEW")).split(" WHERE ")
    update = f"UPDATE {table} SET {revision} = {revision} + 1, {updated} = statement_timestamp() WHERE {condition}"
    if plan.part == "child":
        return f"{update};"
    if not plan.is_held:
        return f"{update} AND {_is_there(plan)};"
    return f"{update};\n    IF NOT FOUND AND {_BLIND} THEN\n        {_save(plan, 'revision', str(RAISE))}\n    END IF;"


def _new(plan: SpreadPlan) -> str:
    """Promise a row, above the delete of one of the same key."""
    revision, updated = plan.quote(plan.revision), plan.quote(plan.updated)
    table, condition = plan.row(plan.holder, _key(plan, "NEW")).split(" WHERE ")
    nothing = no_previous_values(plan)
    # Two more than the delete: of one more the holder's triggers make none, where they have promised the row already.
    return f"""{_lock(plan)}
    {_save(plan, "previous_data", nothing) if nothing else _save(plan)}
    SELECT max(d.revision) INTO deleted FROM @outbox@ d WHERE d.signal_type = 'DELETE'
        AND d.cqrs_id = {plan.literal(plan.cqrs_id)} AND d.instance_pk = {_pk(plan, "NEW")};
    IF deleted IS NOT NULL THEN
        UPDATE {table} SET {revision} = deleted + 2, {updated} = statement_timestamp()
            WHERE {condition} AND {revision} <= deleted;
    END IF;"""


# --- what they do ----------------------------------------------------------------------------------------------------


def _lock(plan: SpreadPlan) -> str:
    """As ``save()`` does, from the oldest table on."""
    rows = [plan.row(table, _key(plan, "NEW")) for table in reversed(plan.parents)]
    return "\n    ".join(f"PERFORM FROM {row} FOR NO KEY UPDATE;" for row in rows)


def _parent_updated(plan: SpreadPlan) -> str:
    return f"""IF NOT {_changed(plan)} THEN
        RETURN NULL;
    END IF;
    {_raising(plan)}
    {_noted(plan)}
    IF previous IS NOT NULL AND {_is_there(plan)} THEN
        {_save(plan, "previous_data", "previous")}
    END IF;"""


def _child_updated(plan: SpreadPlan) -> str:
    holder, key = map(plan.quote, plan.holder)
    old, new, revision = _key(plan, "OLD"), _key(plan, "NEW"), plan.quote(plan.revision)
    held = f"{holder} h WHERE h.{key} IN ({old}, {new}) ORDER BY h.{revision} DESC LIMIT 1"
    return f"""IF {new} <> {old} THEN
        {_gone(plan, f"h.{revision}", held)}
        {_new(plan)}
    ELSIF {_changed(plan)} THEN
        {_raising(plan)}
        {_noted(plan)}
        IF previous IS NOT NULL THEN
            {_save(plan, "previous_data", "previous")}
        END IF;
    END IF;"""


def _child_deleted(plan: SpreadPlan) -> str:
    held = f"{plan.row(plan.holder, _key(plan, 'OLD'), 'h')} FOR NO KEY UPDATE"
    return _gone(plan, f"h.{plan.quote(plan.revision)}", held)


def _child_truncated(plan: SpreadPlan) -> str:
    holder, key = map(plan.quote, plan.holder)
    every = _gone(plan, f"h.{plan.quote(plan.revision)}", f"{holder} h JOIN ", "o").removesuffix(";")
    joined = f" o ON h.{key} = {_key(plan, 'o')}"
    return f"EXECUTE {plan.literal(every)} || TG_RELID::regclass || {plan.literal(joined)};"


def _holder_updated(plan: SpreadPlan) -> str:
    old, new = (f"{row}.{plan.quote(plan.revision)}" for row in ("OLD", "NEW"))
    # Revision 0 in the outbox: it is to be looked up whether there was a row of this key, once all parts have moved.
    return f"""IF {_key(plan, "NEW")} <> {_key(plan, "OLD")} THEN
        {_save(plan, "revision", "0")}
        RETURN NULL;
    END IF;
    IF {new} = {old} THEN
        IF NOT {_changed(plan)} THEN
            RETURN NULL;
        END IF;
        {_raising(plan)}
    END IF;
    {_noted(plan)}
    IF ({new} <> {old} OR previous IS NOT NULL) AND {_is_there(plan)} THEN
        {_save(plan, "previous_data", "previous")}
    END IF;"""


def _holder_deleted(plan: SpreadPlan) -> str:
    """Before it goes: with it the database may take the model's own part, which finds no revision any more."""
    return _gone(plan, f"OLD.{plan.quote(plan.revision)}", plan.row(plan.own, _key(plan, "OLD")))


_TRIGGERS: dict[tuple[str, str], tuple[str, Callable[[SpreadPlan], str]]] = {
    ("guard", "guard"): ("AFTER INSERT", _lock),
    ("parent", "update"): ("AFTER UPDATE", _parent_updated),
    ("child", "insert"): ("AFTER INSERT", _new),
    ("child", "update"): ("AFTER UPDATE", _child_updated),
    ("child", "delete"): ("AFTER DELETE", _child_deleted),
    ("child", "truncate"): ("BEFORE TRUNCATE", _child_truncated),
    ("holder", "update"): ("AFTER UPDATE", _holder_updated),
    ("holder", "delete"): ("BEFORE DELETE", _holder_deleted),
}
