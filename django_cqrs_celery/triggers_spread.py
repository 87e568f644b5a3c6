"""The triggers of a model whose row is spread over several tables: what they are to do on each of them.

The revision is in one of the tables, the *holder*: that of the model itself, or that of a model which it inherits. A
change in another table raises it there, and the triggers of the holder promise what has a new revision. All tables have
the same primary key; a model of which this is not so stays with the ORM.

What the triggers of a table do depends on its part:

``parent``: raise the holder's revision. ``child``, the model's own table where it is not the holder: also tell of rows
that come and go. ``holder``, where it is not the model's own: promise the model each new revision. ``guard``, where it
is the model's own and has the triggers of any master beside: lock the row's other parts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from django_cqrs_celery.triggers_plan import Plan

#: A table and the column that is its primary key.
Table = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class SpreadPlan(Plan):
    """The triggers of one of the tables.

    ``table``, ``key``, ``compared``, ``tracked``: of this table. ``revision``, ``updated``: columns of the holder.
    ``own``, ``holder``, ``parents``: the model's table, the holder, all tables that the model inherits.
    """

    part: str
    own: Table
    holder: Table
    parents: tuple[Table, ...]

    @property
    def is_held(self) -> bool:
        """Whether the model's own table holds the revision."""
        return self.own == self.holder

    def row(self, table: Table, key: str, alias: str = "") -> str:
        """A table and the condition by which it has one row, of this key."""
        name, column = map(self.quote, table)
        return f"{name} {alias} WHERE {alias}.{column} = {key}" if alias else f"{name} WHERE {column} = {key}"


def plan_of(plan: Plan, number: int, table: Any, model: Any, holder: Any) -> SpreadPlan:
    """The plan of one of the tables, of what there is to see in it; 0 is the number of the model's own."""
    if table is model:
        part = "guard" if model is holder else "child"
    else:
        part = "holder" if table is holder else "parent"
    seen = {field.name: getattr(plan, field.name) for field in fields(plan)}
    seen["name"] = plan.name if part == "child" else f"{plan.name}_{number}"
    parents = tuple(map(_table, model._meta.get_parent_list()))
    return SpreadPlan(**seen, part=part, own=_table(model), holder=_table(holder), parents=parents)


def _table(model: Any) -> Table:
    return model._meta.db_table, str(model._meta.pk.column)
