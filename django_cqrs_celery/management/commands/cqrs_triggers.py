"""``cqrs_triggers``: look at the triggers that capture changes, install them, remove them, or print their SQL."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from django_cqrs_celery import triggers_upkeep
from django_cqrs_celery.registries import MasterRegistry
from django_cqrs_celery.triggers_upkeep import TriggerSet


class Command(BaseCommand):
    """For people whose migrations are run by someone else."""

    help = (
        "status: one line for each model and database; ends with an error unless all are installed. "
        "install: create them anew, as migrate does. uninstall: remove them until the next install. "
        "sql: print what install would execute, for the database's own client."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the action and what narrows it."""
        parser.add_argument("action", choices=["status", "install", "uninstall", "sql"])
        parser.add_argument("-cid", "--cqrs-id", nargs="+", default=[], help="Only the models of these CQRS_IDs.")
        parser.add_argument("--database", help="Only this database alias.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check the options, then act on each set of triggers."""
        unknown = sorted(set(options["cqrs_id"]) - set(MasterRegistry.models))
        if unknown:
            known = ", ".join(sorted(MasterRegistry.models)) or "none"
            raise CommandError(f"No master model has the CQRS_ID {', '.join(unknown)} (known: {known}).")
        alias = options["database"]
        if alias is not None and alias not in connections:
            raise CommandError(f"There is no database '{alias}' (known: {', '.join(connections)}).")
        chosen = [s for s in triggers_upkeep.sets(alias) if not options["cqrs_id"] or s.cqrs_id in options["cqrs_id"]]
        if not chosen:
            self.stderr.write("None of these models is captured by triggers: CQRS['master']['capture'], CQRS_CAPTURE.")
        try:
            getattr(self, f"_{options['action']}")(chosen)
        except DatabaseError as error:
            raise CommandError(
                f"{type(error).__name__}: {error}".strip() + "\nThe rights that are needed are in the documentation,"
                " howto/triggers; 'cqrs_triggers sql' prints the statements for someone who has them."
            ) from error

    def _status(self, chosen: list[TriggerSet]) -> None:
        wrong = 0
        for triggers in chosen:
            state = triggers.state()
            wrong += state != "installed"
            self._say(triggers, state)
        if wrong:
            raise CommandError(f"{wrong} of {len(chosen)} are not installed as they should be.")

    def _install(self, chosen: list[TriggerSet]) -> None:
        for triggers in chosen:
            if triggers.state() == "no table":
                self._say(triggers, "no table; run migrate")
                continue
            triggers.install()
            self._say(triggers, "installed")

    def _uninstall(self, chosen: list[TriggerSet]) -> None:
        for triggers in chosen:
            triggers.uninstall()
            self._say(triggers, "removed")

    def _sql(self, chosen: list[TriggerSet]) -> None:
        for triggers in chosen:
            self.stdout.write(f"-- {triggers.cqrs_id}: {triggers.model._meta.db_table} in '{triggers.alias}'")
            self.stdout.write(triggers.script())

    def _say(self, triggers: TriggerSet, what: str) -> None:
        self.stdout.write(f"{triggers.cqrs_id} in '{triggers.alias}': {what}")
