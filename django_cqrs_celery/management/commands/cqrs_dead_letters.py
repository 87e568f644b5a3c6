"""``cqrs_dead_letters``: list, dump, retry or purge the changes that this replica could not apply."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from django_cqrs_celery import dead_letters, intake
from django_cqrs_celery.constants import DeadLetterStatus
from django_cqrs_celery.dataclasses import loads
from django_cqrs_celery.exceptions import DecodeError
from django_cqrs_celery.models import DeadLetter
from django_cqrs_celery.querysets import DeadLetterQuerySet

_NARROWING = ("cqrs_id", "pk", "since", "status")
_OPEN = DeadLetterQuerySet.OPEN
_OVER = (DeadLetterStatus.DEAD.value, DeadLetterStatus.SUPERSEDED.value, DeadLetterStatus.RESOLVED.value)


class Command(BaseCommand):
    """Look at dead letters and decide about them."""

    help = (
        "list: one line for each letter, without what it holds. dump: what it holds, one JSON value a line. "
        "retry: try again now. purge: delete those that are dead or closed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the action and what narrows it."""
        parser.add_argument("action", choices=["list", "dump", "retry", "purge"])
        parser.add_argument("-cid", "--cqrs-id", nargs="+", help="Only changes of these CQRS_IDs.")
        parser.add_argument("--pk", nargs="+", help="Only changes of the rows with these primary keys.")
        parser.add_argument("--since", help="Only what was set aside since this date or time (ISO 8601).")
        parser.add_argument(
            "--status", nargs="+", choices=[status.value for status in DeadLetterStatus], help="Only these states."
        )
        parser.add_argument(
            "--all", action="store_true",
            help="Nothing narrowed; list and dump then show closed letters too. retry takes all that are open and "
            "purge all that are dead or closed, as they do without options.",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        """Check the options, then act on each database that holds dead letters."""
        if options["all"] and any(options[name] for name in _NARROWING):
            raise CommandError("--all goes with none of --cqrs-id, --pk, --since and --status.")
        action = options["action"]
        allowed = {"retry": _OPEN, "purge": _OVER}.get(action)
        wrong = [status for status in options["status"] or () if allowed and status not in allowed]
        if wrong:
            raise CommandError(f"{action} takes letters that are {', '.join(allowed or ())}; not {', '.join(wrong)}.")
        since = _moment(options["since"])
        getattr(self, f"_{action}")(list(_matching(options, since)))

    def _list(self, querysets: list[DeadLetterQuerySet]) -> None:
        for letter in _letters(querysets):
            row = f"{letter.cqrs_id or '(unreadable)'} {letter.instance_pk}".strip()
            due = f", due {letter.next_retry_at.isoformat()}" if letter.next_retry_at else ""
            self.stdout.write(
                f"{letter.pk}: {row} {letter.signal_type} revision {letter.revision}, {letter.status}"
                f", {letter.retries} retries{due}, {letter.error_class}"
            )

    def _dump(self, querysets: list[DeadLetterQuerySet]) -> None:
        for letter in _letters(querysets):
            try:
                held = loads(letter.payload)
            except DecodeError:
                held = letter.payload
            self.stdout.write(json.dumps(held, ensure_ascii=False))

    def _retry(self, querysets: list[DeadLetterQuerySet]) -> None:
        wanted = sum(letters.open().count() for letters in querysets)
        asked = sum(dead_letters.ask_again(letters) for letters in querysets)
        applied = failed = 0
        while applied + failed < asked:
            answer = intake.retry_due()
            if answer.again is not None:
                raise CommandError(f"The database cannot take changes now ({answer.again}); the letters are due, kept.")
            if not answer.applied + answer.failed:
                break  # a worker has taken the others
            applied, failed = applied + answer.applied, failed + answer.failed
        self.stdout.write(f"{asked} tried again: {applied} settled, {failed} failed again.")
        if wanted > asked:
            self.stdout.write(f"{wanted - asked} left alone: a worker holds them, or they hold no readable change.")

    def _purge(self, querysets: list[DeadLetterQuerySet]) -> None:
        gone = sum(letters.over()._raw_delete(letters.db) for letters in querysets)
        self.stdout.write(f"{gone} deleted.")


def _moment(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        moment = parse_datetime(text)
        if moment is None:
            day = parse_date(text)
            moment = None if day is None else datetime.datetime.combine(day, datetime.time())
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(f"--since is {text!r}, expected a date or a time: 2030-01-31 or 2030-01-31T12:00:00Z.")
    if timezone.is_naive(moment) and settings.USE_TZ:
        return timezone.make_aware(moment)
    return moment if settings.USE_TZ or timezone.is_naive(moment) else timezone.make_naive(moment)


def _matching(options: dict[str, Any], since: datetime.datetime | None) -> Iterator[DeadLetterQuerySet]:
    for using in dead_letters.aliases():
        letters: Any = DeadLetter.objects.using(using)
        if options["cqrs_id"]:
            letters = letters.filter(cqrs_id__in=options["cqrs_id"])
        if options["pk"]:
            letters = letters.filter(instance_pk__in=options["pk"])
        if since is not None:
            letters = letters.filter(created_at__gte=since)
        if options["status"]:
            letters = letters.filter(status__in=options["status"])
        elif options["action"] in ("list", "dump") and not options["all"]:
            letters = letters.open()
        yield letters


def _letters(querysets: list[DeadLetterQuerySet]) -> Iterator[DeadLetter]:
    for letters in querysets:
        yield from letters.order_by("pk").iterator()
