"""On MariaDB and MySQL: the triggers of a model whose row is spread over several tables. They fire for each row.

A trigger may not write to a table that its statement uses (error 1442). The outbox row then says that the revision is
to be raised when the change is published. Whether a row of the holder is one of the model is not looked up: what was
committed meanwhile may not be seen, and a promise of what is not there is settled without a message.
"""

from __future__ import annotations

from collections.abc import Callable

from django_cqrs_celery.constants import RAISE
from django_cqrs_celery.triggers_mysql import GONE, json, text
from django_cqrs_celery.triggers_plan import MARK, no_previous_values, previous_values, sealed
from django_cqrs_celery.triggers_spread import SpreadPlan

#: Each trigger of a set by the end of its name, by part.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "parent": ("update",), "child": ("insert", "update", "delete"), "holder": ("update", "delete"), "guard": (),
}  # fmt: skip


def install(plan: SpreadPlan) -> list[str]:
    """Statements that create the triggers of one table; there are none of these names."""
    return sealed(plan, _statements) if SUFFIXES[plan.part] else []  # type: ignore[arg-type]


def _statements(plan: SpreadPlan, print_: str) -> list[str]:
    created = []
    for suffix in SUFFIXES[plan.part]:
        event, write = _TRIGGERS[plan.part, suffix]
        name, table = plan.quote(plan.trigger(suffix)), plan.quote(plan.table)
        created.append(
            f"CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW BEGIN\n"
            f"    DECLARE deleted INT;\n    DECLARE capture CHAR(64) DEFAULT '{MARK} {print_}';\n    {write(plan)}\nEND"
        )
    return created


# --- what they say ---------------------------------------------------------------------------------------------------


def _key(plan: SpreadPlan, row: str) -> str:
    return f"{row}.{plan.quote(plan.key.column)}"


def _save(plan: SpreadPlan, **values: str | None) -> str:
    filled = {name: value for name, value in values.items() if value is not None}
    columns = ", ".join(["signal_type", "cqrs_id", "instance_pk", *filled])
    own = ", ".join(["'SAVE'", plan.literal(plan.cqrs_id), _pk(plan, "NEW"), *filled.values()])
    return f"INSERT INTO {plan.quote(plan.outbox)} ({columns}) VALUES ({own});"


def _pk(plan: SpreadPlan, row: str) -> str:
    return text(plan, plan.key, _key(plan, row))


def _gone(plan: SpreadPlan, revision: str, rows: str) -> str:
    return (
        f"INSERT INTO {plan.quote(plan.outbox)} (signal_type, cqrs_id, instance_pk, revision, instance_data)"
        f" SELECT 'DELETE', {plan.literal(plan.cqrs_id)}, {_pk(plan, 'OLD')}, {revision} + 1, {GONE} FROM {rows};"
    )


def _same(plan: SpreadPlan, column: str) -> str:
    return f"BINARY OLD.{plan.quote(column)} <=> BINARY NEW.{plan.quote(column)}"


def _unchanged(plan: SpreadPlan) -> str:
    return " AND ".join(_same(plan, column) for column in plan.compared) or "TRUE"


def _previous(plan: SpreadPlan) -> str | None:
    if not plan.tracked:
        return None
    previous = previous_values(
        plan, lambda c: f"NOT ({_same(plan, c)})", lambda c: json(plan, c, f"OLD.{plan.quote(c.column)}"), ","
    )
    return f"NULLIF(CONCAT('{{', SUBSTR(CONCAT({previous}), 2), '}}'), '{{}}')"


def _raising(plan: SpreadPlan) -> str:
    revision, updated, previous = plan.quote(plan.revision), plan.quote(plan.updated), _previous(plan)
    table, condition = plan.row(plan.holder, _key(plan, "NEW")).split(" WHERE ")
    noted = f"\n        {_save(plan, previous_data=previous)}" if previous else ""
    return f"""BEGIN
        DECLARE CONTINUE HANDLER FOR 1442 {_save(plan, revision=str(RAISE))}
        UPDATE {table} SET {revision} = {revision} + 1, {updated} = UTC_TIMESTAMP(6) WHERE {condition};{noted}
    END;"""


# --- what they do ----------------------------------------------------------------------------------------------------


def _new(plan: SpreadPlan) -> str:
    """Promise a row, above the delete of one of the same key; 0 says that this is to be looked up once more."""
    revision, updated = plan.quote(plan.revision), plan.quote(plan.updated)
    table, condition = plan.row(plan.holder, _key(plan, "NEW")).split(" WHERE ")
    return f"""{_save(plan, revision="0", previous_data=no_previous_values(plan))}
    SET deleted = (SELECT MAX(d.revision) FROM {plan.quote(plan.outbox)} d WHERE d.signal_type = 'DELETE'
        AND d.cqrs_id = {plan.literal(plan.cqrs_id)} AND d.instance_pk = {_pk(plan, "NEW")});
    IF deleted IS NOT NULL THEN
    BEGIN
        DECLARE CONTINUE HANDLER FOR 1442 BEGIN END;
        UPDATE {table} SET {revision} = deleted + 2, {updated} = UTC_TIMESTAMP(6)
            WHERE {condition} AND {revision} <= deleted;
    END;
    END IF;"""


def _parent_updated(plan: SpreadPlan) -> str:
    return f"IF NOT ({_unchanged(plan)}) THEN\n    {_raising(plan)}\n    END IF;"


def _child_updated(plan: SpreadPlan) -> str:
    holder, key = map(plan.quote, plan.holder)
    old, new, revision = _key(plan, "OLD"), _key(plan, "NEW"), plan.quote(plan.revision)
    held = f"{holder} h WHERE h.{key} IN ({old}, {new}) ORDER BY h.{revision} DESC LIMIT 1"
    return f"""IF {new} <> {old} THEN
    {_gone(plan, f"h.{revision}", held)}
    {_new(plan)}
    ELSEIF NOT ({_unchanged(plan)}) THEN
    {_raising(plan)}
    END IF;"""


def _child_deleted(plan: SpreadPlan) -> str:
    """The revision is read under a lock: another transaction may be about to raise it."""
    gone = _gone(plan, f"h.{plan.quote(plan.revision)}", plan.row(plan.holder, _key(plan, "OLD"), "h"))
    return f"""BEGIN
        DECLARE CONTINUE HANDLER FOR 1442 {gone}
        {gone.removesuffix(";")} FOR UPDATE;
    END;"""


def _holder_updated(plan: SpreadPlan) -> str:
    old, new = (f"{row}.{plan.quote(plan.revision)}" for row in ("OLD", "NEW"))
    previous = _previous(plan)
    return f"""IF {_key(plan, "NEW")} <> {_key(plan, "OLD")} THEN
        {_save(plan, revision="0")}
    ELSEIF {new} <> {old} THEN
        {_save(plan, previous_data=previous)}
    ELSEIF NOT ({_unchanged(plan)}) THEN
        {_save(plan, revision=str(RAISE), previous_data=previous)}
    END IF;"""


def _holder_deleted(plan: SpreadPlan) -> str:
    return _gone(plan, f"OLD.{plan.quote(plan.revision)}", plan.row(plan.own, _key(plan, "OLD")))


_TRIGGERS: dict[tuple[str, str], tuple[str, Callable[[SpreadPlan], str]]] = {
    ("parent", "update"): ("AFTER UPDATE", _parent_updated),
    ("child", "insert"): ("AFTER INSERT", _new),
    ("child", "update"): ("AFTER UPDATE", _child_updated),
    ("child", "delete"): ("AFTER DELETE", _child_deleted),
    ("holder", "update"): ("AFTER UPDATE", _holder_updated),
    ("holder", "delete"): ("BEFORE DELETE", _holder_deleted),
}
