"""On SQLite: the triggers of a model whose row is spread over several tables. They fire for each row.

There is one writer at a time, and no trigger fires within itself: what raises the revision of the holder is another
trigger than that which promises it.
"""

from __future__ import annotations

from collections.abc import Callable

from django_cqrs_celery.triggers_plan import MARK, no_previous_values, previous_values, sealed
from django_cqrs_celery.triggers_spread import SpreadPlan
from django_cqrs_celery.triggers_sqlite import GONE, NOW, json, text

#: Each trigger of a set by the end of its name, by part.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "parent": ("update",), "child": ("insert", "update", "delete"), "holder": ("raise", "update", "delete"),
    "guard": (),
}  # fmt: skip


def install(plan: SpreadPlan) -> list[str]:
    """Statements that create the triggers of one table; there are none of these names."""
    return sealed(plan, _statements) if SUFFIXES[plan.part] else []  # type: ignore[arg-type]


def _statements(plan: SpreadPlan, print_: str) -> list[str]:
    created = []
    for suffix in SUFFIXES[plan.part]:
        event, write = _TRIGGERS[plan.part, suffix]
        body = "".join(f"    {statement};\n" for statement in write(plan))
        name, table = plan.quote(plan.trigger(suffix)), plan.quote(plan.table)
        created.append(
            f"CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW BEGIN\n"
            f"    -- {MARK} {print_}\n{body}END"
        )
    return created


# --- what they say ---------------------------------------------------------------------------------------------------


def _key(plan: SpreadPlan, row: str) -> str:
    return f"{row}.{plan.quote(plan.key.column)}"


def _is_moved(plan: SpreadPlan) -> str:
    return f"{_key(plan, 'OLD')} IS NOT {_key(plan, 'NEW')}"


def _save(plan: SpreadPlan, condition: str, **values: str | None) -> str:
    filled = {name: value for name, value in values.items() if value is not None}
    columns = ", ".join(["signal_type", "cqrs_id", "instance_pk", *filled])
    own = ", ".join(["'SAVE'", plan.literal(plan.cqrs_id), text(plan.key, _key(plan, "NEW")), *filled.values()])
    return f"INSERT INTO {plan.quote(plan.outbox)} ({columns}) SELECT {own} WHERE {condition}"


def _gone(plan: SpreadPlan, revision: str, rows: str) -> str:
    return (
        f"INSERT INTO {plan.quote(plan.outbox)} (signal_type, cqrs_id, instance_pk, revision, instance_data)"
        f" SELECT 'DELETE', {plan.literal(plan.cqrs_id)}, {text(plan.key, _key(plan, 'OLD'))}, {revision} + 1, {GONE}"
        f" FROM {rows}"
    )


def _any_of(plan: SpreadPlan, columns: tuple[str, ...]) -> str:
    return " OR ".join(f"OLD.{c} IS NOT NEW.{c}" for c in map(plan.quote, columns)) or "0"


def _tracked(plan: SpreadPlan) -> tuple[str, str | None]:
    """Whether a tracked column has changed, and the previous values of those that have."""
    if not plan.tracked:
        return "0", None
    previous = previous_values(
        plan, lambda c: _any_of(plan, (c,)), lambda c: json(c, f"OLD.{plan.quote(c.column)}"), "||"
    )
    changed = _any_of(plan, tuple(column.column for column in plan.tracked))
    return f"({changed})", f"nullif('{{' || substr({previous}, 2) || '}}', '{{}}')"


def _is_there(plan: SpreadPlan) -> str:
    return f"EXISTS (SELECT 1 FROM {plan.row(plan.own, _key(plan, 'NEW'))})"


def _raising(plan: SpreadPlan, condition: str) -> str:
    revision, updated = plan.quote(plan.revision), plan.quote(plan.updated)
    table, held = plan.row(plan.holder, _key(plan, "NEW")).split(" WHERE ")
    return (
        f"UPDATE {table} SET {revision} = {revision} + 1, {updated} = {NOW}"
        f" WHERE {held} AND {_is_there(plan)} AND ({condition})"
    )


def _lifting(plan: SpreadPlan, condition: str) -> str:
    """Above the last delete of a row of the same key."""
    revision, updated = plan.quote(plan.revision), plan.quote(plan.updated)
    table, held = plan.row(plan.holder, _key(plan, "NEW")).split(" WHERE ")
    deleted = (
        f"(SELECT max(d.revision) FROM {plan.quote(plan.outbox)} d WHERE d.signal_type = 'DELETE'"
        f" AND d.cqrs_id = {plan.literal(plan.cqrs_id)} AND d.instance_pk = {text(plan.key, _key(plan, 'NEW'))})"
    )
    return (
        f"UPDATE {table} SET {revision} = {deleted} + 1, {updated} = {NOW}"
        f" WHERE {held} AND {revision} <= {deleted} AND {condition}"
    )


# --- what they do ----------------------------------------------------------------------------------------------------


def _parent_updated(plan: SpreadPlan) -> list[str]:
    changed, previous = _tracked(plan)
    noted = [_save(plan, f"{changed} AND {_is_there(plan)}", previous_data=previous)] if previous else []
    return [_raising(plan, _any_of(plan, plan.compared)), *noted]


def _child_inserted(plan: SpreadPlan) -> list[str]:
    return [_save(plan, "1", previous_data=no_previous_values(plan)), _lifting(plan, "1")]


def _child_updated(plan: SpreadPlan) -> list[str]:
    holder, key = map(plan.quote, plan.holder)
    keys, revision, moved = f"({_key(plan, 'OLD')}, {_key(plan, 'NEW')})", plan.quote(plan.revision), _is_moved(plan)
    changed, previous = _tracked(plan)
    held = f"{holder} h WHERE h.{key} IN {keys} AND {moved} HAVING max(h.{revision}) >= 0"
    return [
        _gone(plan, f"max(h.{revision})", held),
        _save(plan, f"{moved} OR {changed}", previous_data=previous),
        _lifting(plan, moved),
        _raising(plan, f"NOT ({moved}) AND ({_any_of(plan, plan.compared)})"),
    ]


def _child_deleted(plan: SpreadPlan) -> list[str]:
    return [_gone(plan, f"h.{plan.quote(plan.revision)}", plan.row(plan.holder, _key(plan, "OLD"), "h"))]


def _holder_raised(plan: SpreadPlan) -> list[str]:
    """What the model replicates and the holder's own triggers do not see."""
    old, new = (f"{row}.{plan.quote(plan.revision)}" for row in ("OLD", "NEW"))
    changed = _any_of(plan, plan.compared)
    return [_raising(plan, f"{new} IS {old} AND {plan.quote(plan.revision)} = {old} AND ({changed})")]


def _holder_updated(plan: SpreadPlan) -> list[str]:
    old, new = (f"{row}.{plan.quote(plan.revision)}" for row in ("OLD", "NEW"))
    changed, previous = _tracked(plan)
    moved, is_there = _is_moved(plan), _is_there(plan)
    # Revision 0 in the outbox: it is to be looked up whether there was a row of this key, once all parts have moved.
    raised = f"NOT ({moved}) AND {new} >= 0 AND ({new} IS NOT {old} OR {changed}) AND {is_there}"
    return [
        _save(plan, raised, previous_data=previous),
        _save(plan, moved, revision="0"),
    ]


def _holder_deleted(plan: SpreadPlan) -> list[str]:
    """Before it goes: with it the database may take the model's own part, which finds no revision any more."""
    return [_gone(plan, f"OLD.{plan.quote(plan.revision)}", plan.row(plan.own, _key(plan, "OLD")))]


_TRIGGERS: dict[tuple[str, str], tuple[str, Callable[[SpreadPlan], list[str]]]] = {
    ("parent", "update"): ("AFTER UPDATE", _parent_updated),
    ("child", "insert"): ("AFTER INSERT", _child_inserted),
    ("child", "update"): ("AFTER UPDATE", _child_updated),
    ("child", "delete"): ("AFTER DELETE", _child_deleted),
    ("holder", "raise"): ("AFTER UPDATE", _holder_raised),
    ("holder", "update"): ("AFTER UPDATE", _holder_updated),
    ("holder", "delete"): ("BEFORE DELETE", _holder_deleted),
}
