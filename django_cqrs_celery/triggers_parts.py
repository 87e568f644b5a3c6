"""The triggers of one table, whatever the engine: what creates them, and what a database has of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from django_cqrs_celery import (
    triggers_links,
    triggers_mysql,
    triggers_plan,
    triggers_postgresql,
    triggers_spread_mysql,
    triggers_spread_postgresql,
    triggers_spread_sqlite,
    triggers_sqlite,
)
from django_cqrs_celery.triggers_plan import Plan
from django_cqrs_celery.triggers_spread import SpreadPlan

State = Literal["installed", "missing", "disabled", "outdated"]

ENGINES: dict[str, Any] = {
    "postgresql": triggers_postgresql, "mysql": triggers_mysql, "sqlite": triggers_sqlite,
}  # fmt: skip
#: The same for models whose rows are spread over several tables.
_SPREAD: dict[str, Any] = {
    "postgresql": triggers_spread_postgresql, "mysql": triggers_spread_mysql, "sqlite": triggers_spread_sqlite,
}  # fmt: skip
_MARKED = re.compile(re.escape(triggers_plan.MARK) + r" ([0-9a-f]{16})")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Triggers on one table: their plan, the end of the name of each, the statements that create them."""

    plan: Plan
    suffixes: Sequence[str]
    statements: Sequence[str]

    def is_whole(self, connection: Any) -> bool:
        """Whether the database has all of these triggers, as they are declared or as they were before."""
        found = self._found(connection)
        return set(found) >= set(self.suffixes) and all(enabled for _, enabled in found.values())

    def state(self, connection: Any) -> State:
        """What the database has of these triggers."""
        found = self._found(connection)
        if not found:
            return "missing"
        if set(found) < set(self.suffixes):
            return "outdated"
        if not all(enabled for _, enabled in found.values()):
            return "disabled"
        mark = f"{triggers_plan.MARK} {_fingerprint(self.statements)}"
        # MariaDB shows no body to a user without the privilege TRIGGER.
        return "installed" if all(body is None or mark in body for body, _ in found.values()) else "outdated"

    def _found(self, connection: Any) -> dict[str, tuple[str, bool]]:
        return ENGINES[connection.vendor].found(connection, self.plan, self.suffixes)  # type: ignore[no-any-return]


def _fingerprint(statements: Iterable[str]) -> str:
    return next(match.group(1) for statement in statements if (match := _MARKED.search(statement)))


#: Table and name of every trigger of this package.
_ALL = {
    "postgresql": "SELECT c.relname, p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
    " JOIN pg_class c ON c.oid = t.tgrelid WHERE pg_table_is_visible(c.oid) AND strpos(p.prosrc, %s) > 0",
    "mysql": "SELECT event_object_table, trigger_name FROM information_schema.triggers"
    " WHERE trigger_schema = DATABASE() AND LOCATE(%s, action_statement)",
    "sqlite": "SELECT tbl_name, name FROM sqlite_master WHERE type = 'trigger' AND instr(sql, %s)",
}
_SET = re.compile(r"cqrs_.*?_[0-9a-f]{6}(?=_)")


def sets_of_table(connection: Any, table: str, known: Iterable[str]) -> dict[str, list[str]]:
    """The names of all triggers of those sets that have one on this table, by the name of the set, but for some."""
    with connection.cursor() as cursor:
        cursor.execute(_ALL[connection.vendor], [triggers_plan.MARK])
        rows = [row for row in cursor.fetchall() if not row[1].startswith(tuple(f"{name}_" for name in known))]
    found = [(of, name, match[0]) for of, name in rows if (match := _SET.match(name))]
    wanted = {own for of, _, own in found if of == table}
    return {own: [name for _, name, of in found if of == own] for own in wanted}


def take_away(vendor: str, names: Iterable[str], quote: Callable[[str], str]) -> list[str]:
    """Statements that take away triggers of these names."""
    if vendor == "postgresql":
        return [f"DROP FUNCTION IF EXISTS {quote(name)}() CASCADE" for name in names]
    return [f"DROP TRIGGER IF EXISTS {quote(name)}" for name in names]


def own(vendor: str, plan: Plan) -> Part:
    """The triggers of a master's own table."""
    engine = ENGINES[vendor]
    return Part(plan=plan, suffixes=engine.SUFFIXES, statements=engine.install(plan))


def of_links(vendor: str, plan: triggers_links.LinkPlan) -> Part:
    """The triggers of a table of links."""
    statements = triggers_links.install(vendor, plan)
    return Part(plan=plan, suffixes=triggers_links.SUFFIXES[vendor], statements=statements)


def of_spread(vendor: str, plan: SpreadPlan) -> list[Part]:
    """The triggers of one table of a row that is spread over several, if it has any."""
    suffixes = _SPREAD[vendor].SUFFIXES[plan.part]
    if not suffixes:
        return []
    away = [] if vendor == "postgresql" else _uninstall(vendor, plan.name, suffixes, plan.quote)
    return [Part(plan=plan, suffixes=suffixes, statements=[*away, *_SPREAD[vendor].install(plan)])]


def uninstall_own(vendor: str, name: str, parents: int, quote: Callable[[str], str]) -> list[str]:
    """Statements that take the triggers of a row away, in each of its tables, which they need not know."""
    statements = _uninstall(vendor, name, ENGINES[vendor].SUFFIXES, quote)
    every = sorted({suffix for suffixes in _SPREAD[vendor].SUFFIXES.values() for suffix in suffixes})
    for number in range(parents + 1) if parents else ():
        statements += _uninstall(vendor, f"{name}_{number}", every, quote)
    return statements


def _uninstall(vendor: str, name: str, suffixes: Iterable[str], quote: Callable[[str], str]) -> list[str]:
    return take_away(vendor, [f"{name}_{suffix}" for suffix in suffixes], quote)
