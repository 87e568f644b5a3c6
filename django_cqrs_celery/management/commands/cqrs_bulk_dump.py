"""``cqrs_bulk_dump``: all rows of a master model into a file."""

from __future__ import annotations

import gzip
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_cqrs_celery import dumps
from django_cqrs_celery.exceptions import CQRSError, UnknownCQRSId
from django_cqrs_celery.management.progress import Progress
from django_cqrs_celery.registries import MasterRegistry

#: Rows that cannot be written and are named.
_NAMED = 20


class Command(BaseCommand):
    """Write all rows of a master model into a dump file."""

    help = "Writes all rows of a master model into a file that cqrs_bulk_load reads on a replica."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of django-cqrs and ``--gzip``."""
        parser.add_argument("-c", "--cqrs-id", required=True, help="CQRS_ID of the master model.")
        parser.add_argument(
            "-o", "--output", default=None,
            help="File to write (<cqrs_id>.dump); a name that ends in .gz is compressed, - is standard output.",
        )  # fmt: skip
        parser.add_argument("-b", "--batch", type=int, default=2000, help="Rows that are read at once (2000).")
        parser.add_argument("-p", "--progress", action="store_true", help="Show progress.")
        parser.add_argument("-f", "--force", action="store_true", help="Overwrite a file that is there.")
        parser.add_argument("-z", "--gzip", action="store_true", help="Compress, whatever the name.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check the options, then write; ends with an error where a row could not be written."""
        if options["batch"] < 1:
            raise CommandError("--batch is a whole number above 0.")
        try:
            model = MasterRegistry.get_model_by_cqrs_id(options["cqrs_id"])
        except UnknownCQRSId as error:
            raise CommandError(str(error)) from error
        path = options["output"] or f"{options['cqrs_id']}.dump"
        if path != "-" and os.path.exists(path) and not options["force"]:
            raise CommandError(f"{path} is there already; --force overwrites it.")
        try:
            written, refused = self._write(model, path, options)
        except (OSError, CQRSError) as error:
            raise CommandError(f"{path} could not be written: {error}") from error
        self.stderr.write(f"{options['cqrs_id']}: {written} rows written.")
        for key, reason in list(refused.items())[:_NAMED]:
            self.stderr.write(f"{options['cqrs_id']} {key} was not written: {reason}")
        if refused:
            raise CommandError(f"{len(refused)} rows were not written; the others are in the dump.")

    def _write(self, model: Any, path: str, options: dict[str, Any]) -> tuple[int, dict[str, str]]:
        progress = Progress(self.stderr, model._base_manager.count(), model.CQRS_ID) if options["progress"] else None
        written, refused = 0, {}
        raw: Any = sys.stdout.buffer if path == "-" else open(path, "wb")  # noqa: SIM115  (closed below)
        packed = options["gzip"] or path.endswith(".gz")
        opened: Any = gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=5) if packed else raw
        try:
            for part in dumps.parts(model, size=options["batch"]):
                opened.write(part.text.encode())
                written += part.rows
                refused.update(part.refused)
                if progress:
                    progress.show(written)
        finally:
            if packed:
                opened.close()
            if path == "-":
                raw.flush()
            else:
                raw.close()
        if progress:
            progress.show(written, last=True)
        return written, refused
