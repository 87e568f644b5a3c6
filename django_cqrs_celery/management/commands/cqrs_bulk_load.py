"""``cqrs_bulk_load``: the rows of a dump file into a replica model."""

from __future__ import annotations

import argparse
import gzip
import io
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError

from django_cqrs_celery import dumps
from django_cqrs_celery.exceptions import CQRSError
from django_cqrs_celery.management.progress import Progress
from django_cqrs_celery.registries import ReplicaRegistry

_GZIP_MAGIC = b"\x1f\x8b"
#: Lines that were not loaded and are named.
_NAMED = 20


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")


class Command(BaseCommand):
    """Load a dump file into a replica model."""

    help = "Loads a file of cqrs_bulk_dump into the replica model of its CQRS_ID."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of django-cqrs and ``--progress``."""
        parser.add_argument("-i", "--input", required=True, help="File of cqrs_bulk_dump; - is standard input.")
        parser.add_argument(
            "-c", "--clear", nargs="?", const=True, default=False, type=_boolean, metavar="yes|no",
            help="Delete the rows of the replica model first.",
        )  # fmt: skip
        parser.add_argument("-b", "--batch", type=int, default=2000, help="Rows that are written at once (2000).")
        parser.add_argument("-p", "--progress", action="store_true", help="Show progress.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check file and options, then load; ends with an error where a line could not be loaded."""
        if options["batch"] < 1:
            raise CommandError("--batch is a whole number above 0.")
        name = options["input"]
        try:
            source: Any = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115  (closed below)
        except OSError as error:
            raise CommandError(f"{name} cannot be read: {error}") from error
        try:
            stream = _lines_of(source)
            header = dumps.header_of(stream.readline())
            model = ReplicaRegistry.get_model_by_cqrs_id(header["cqrs_id"])
            if options["clear"]:
                self.stdout.write(f"{header['cqrs_id']}: {dumps.clear(model)} rows deleted.")
            result = self._load(header, stream, options)
        except (CQRSError, DatabaseError, InterfaceError, OSError, EOFError) as error:
            raise CommandError(f"Loading {name} stopped: {error}") from error
        finally:
            if source is not getattr(sys.stdin, "buffer", None):
                source.close()
        self._report(header["cqrs_id"], result)

    def _load(self, header: dict[str, Any], stream: Any, options: dict[str, Any]) -> dumps.Loaded:
        if not options["progress"]:
            return dumps.load(header, stream, size=options["batch"])
        progress = Progress(self.stderr, header.get("count"), header["cqrs_id"])
        result = dumps.load(header, stream, size=options["batch"], show=progress.show)
        progress.show(result.rows, last=True)
        return result

    def _report(self, cqrs_id: str, result: dumps.Loaded) -> None:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(result.outcomes.items()))
        self.stdout.write(f"{cqrs_id}: {counts or 'nothing loaded'}.")
        if result.waiting:
            self.stdout.write(f"{result.waiting} rows are kept as dead letters until the rows that they refer to come.")
        for number, reason in result.bad_lines[:_NAMED]:
            self.stderr.write(f"line {number} was not loaded: {reason}")
        if result.bad:
            raise CommandError(f"{result.bad} lines were not loaded.")


def _lines_of(source: Any) -> Any:
    """The lines of a stream, unpacked where it is compressed; a pipe cannot be wound back."""
    buffered = source if hasattr(source, "peek") else io.BufferedReader(source)
    return gzip.GzipFile(fileobj=buffered) if buffered.peek(2)[:2] == _GZIP_MAGIC else buffered
