"""The triggers of one table, whatever the engine: what creates them, and what a database has of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from django_cqrs_celery import triggers_links, triggers_mysql, triggers_plan, triggers_postgresql, triggers_sqlite
from django_cqrs_celery.triggers_plan import Plan

State = Literal["installed", "missing", "disabled", "outdated"]

ENGINES: dict[str, Any] = {
    "postgresql": triggers_postgresql, "mysql": triggers_mysql, "sqlite": triggers_sqlite,
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


def own(vendor: str, plan: Plan) -> Part:
    """The triggers of a master's own table."""
    engine = ENGINES[vendor]
    return Part(plan=plan, suffixes=engine.SUFFIXES, statements=engine.install(plan))


def of_links(vendor: str, plan: triggers_links.LinkPlan) -> Part:
    """The triggers of a table of links."""
    statements = triggers_links.install(vendor, plan)
    return Part(plan=plan, suffixes=triggers_links.SUFFIXES[vendor], statements=statements)


def uninstall(vendor: str, name: str, suffixes: Iterable[str], quote: Callable[[str], str]) -> list[str]:
    """Statements that take triggers away; they need not know the tables."""
    if vendor == "postgresql":
        return [f"DROP FUNCTION IF EXISTS {quote(f'{name}_{suffix}')}() CASCADE" for suffix in suffixes]
    return [f"DROP TRIGGER IF EXISTS {quote(f'{name}_{suffix}')}" for suffix in suffixes]
