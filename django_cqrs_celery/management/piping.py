"""What the commands that are joined by pipes have in common: options, and reading line by line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_cqrs_celery import diffs
from django_cqrs_celery.exceptions import CQRSError, DecodeError

#: Lines that could not be read and are named.
_NAMED = 20


def filters_of(text: str | None) -> dict[str, Any]:
    """The lookups of a ``--filter``. Raises ``CommandError``."""
    if not text:
        return {}
    try:
        filters = json.loads(text)
    except ValueError as error:
        raise CommandError(f"--filter is no JSON: {error}") from error
    if not isinstance(filters, dict):
        raise CommandError('--filter is not a JSON object, such as {"pk__in": [1, 2]}.')
    return filters


class ListingCommand(BaseCommand):
    """Begins a pipe: prints the rows of a model."""

    #: Registry of the model.
    registry: Any

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of django-cqrs."""
        parser.add_argument("-cid", "--cqrs-id", required=True, help="CQRS_ID of the model.")
        parser.add_argument("-f", "--filter", default=None, help='Django lookups as JSON, such as {"pk__in": [1, 2]}.')
        parser.add_argument("-b", "--batch", type=int, default=10_000, help="Rows of a line (10,000).")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the head and the rows."""
        if options["batch"] < 1:
            raise CommandError("--batch is a whole number above 0.")
        filters = filters_of(options["filter"])
        try:
            model = diffs.table_of(self.registry.get_model_by_cqrs_id(options["cqrs_id"]))
            rows = diffs.listed(model, filters, options["batch"])
            self.stdout.write(diffs.head_of(model))
            for part in rows:
                self.stdout.write(diffs.line_of(part))
        except CQRSError as error:
            raise CommandError(str(error)) from error


class PipeCommand(BaseCommand):
    """Goes on a pipe: acts on what the command before has printed, and names the lines that it cannot read."""

    def packages(self, read: Callable[[str], Any]) -> Iterator[Any]:
        """What ``read`` makes of each line after the head; ends with an error where it could not read one.

        A line is read when the one before is done with, so that its error may come from there, too.
        """
        bad = 0
        for number, line in enumerate(self.source, start=2):
            try:
                found = read(line)
            except DecodeError as error:
                bad += 1
                if bad <= _NAMED:
                    self.stderr.write(f"line {number} was left out: {error}")
                continue
            yield found
        if bad:
            raise CommandError(f"{bad} lines were left out; the others were seen to.")

    def begin(self, registry: Any, *, from_replica: bool = False) -> tuple[Any, str, str | None]:
        """Model, first line and queue of the stream."""
        self.source = sys.stdin
        head = self.source.readline()
        try:
            cqrs_id, queue = diffs.cqrs_id_of(head, from_replica=from_replica)
            return diffs.table_of(registry.get_model_by_cqrs_id(cqrs_id)), head.strip(), queue
        except CQRSError as error:
            raise CommandError(str(error)) from error
