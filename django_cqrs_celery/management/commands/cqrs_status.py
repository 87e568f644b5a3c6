"""``cqrs_status``: what waits and what failed, for people and for monitoring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_cqrs_celery import presence, status
from django_cqrs_celery.exceptions import ConfigurationError


class Command(BaseCommand):
    """Show the state of replication in this service."""

    help = "Shows the outbox, tombstones and dead letters of each database, the queue and the registered models."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add ``--format`` and ``--synchronised``."""
        parser.add_argument("--format", choices=["text", "json"], default="text", help="Form of the output (text).")
        parser.add_argument(
            "--synchronised", action="store_true",
            help="Say that the replica was refilled: an absence that was longer than tombstones live is forgotten.",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        """Gather and print; fails, after printing, where a database could not be read."""
        try:
            if options["synchronised"]:
                presence.settle()
            state = status.gather()
        except ConfigurationError as error:
            raise CommandError(str(error)) from error
        if options["format"] == "json":
            self.stdout.write(json.dumps(state, indent=2))
        else:
            for line in _lines(state):
                self.stdout.write(line)
        broken = [alias for alias, found in state["databases"].items() if "error" in found]
        if broken:
            raise CommandError(f"Not readable: {', '.join(broken)}. The output says why.")


def _lines(state: dict[str, Any]) -> Iterator[str]:
    yield f"queue: {state['queue'] or 'none'}"
    yield f"exchange: {state['exchange']}"
    for side in ("masters", "replicas"):
        yield f"{side}: {', '.join(f'{cqrs_id} ({model})' for cqrs_id, model in state[side].items()) or 'none'}"
    for alias, found in state["databases"].items():
        yield f"database {alias}:"
        if "error" in found:
            yield f"  {found['error']}"
        if "outbox" in found:
            yield f"  outbox: {_outbox(found['outbox'])}"
        for absence in found.get("absences", ()):
            yield (
                f"  away: no worker consumed {absence['queue']} from {absence['since']} to {absence['until']}, longer"
                " than tombstones live: refill the replica, then run cqrs_status --synchronised"
            )
        if "tombstones" in found:
            yield f"  tombstones of replicas: {found['tombstones']}"
        if "dead_letters" in found:
            yield "  dead letters: " + ("none" if not found["dead_letters"] else "")
            for name, counts in found["dead_letters"].items():
                each = ", ".join(f"{cqrs_id or 'unreadable'} {number}" for cqrs_id, number in counts.items())
                yield f"    {name}: {sum(counts.values())} ({each})"
    if state["syncs"]:
        yield "syncs:"
        for sync in state["syncs"]:
            yield f"  {status.sync_line(sync)}"


def _outbox(outbox: dict[str, Any]) -> str:
    age = outbox["oldest_pending_seconds"]
    since = "" if age is None else f" (oldest {age:.1f} s)"
    return f"{outbox['pending']} pending{since}, {outbox['failed']} failed, {outbox['tombstones']} tombstones"
