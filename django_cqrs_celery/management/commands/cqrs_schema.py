"""``cqrs_schema``: what the master's models send, and whether it fits into the replica's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_cqrs_celery import schema
from django_cqrs_celery.exceptions import UnknownCQRSId


class Command(BaseCommand):
    """Export the schema contract of a master, or check a replica against one."""

    help = "Writes what the master models send (export), or says what of it would not fit into the replicas (check)."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the two actions."""
        actions = parser.add_subparsers(dest="action", required=True)
        export = actions.add_parser("export", help="On the master: write the file.")
        export.add_argument("-c", "--cqrs-id", action="append", help="CQRS_ID of a model; several, or all (all).")
        export.add_argument("-o", "--output", default="-", help="File to write, - is standard output (-).")
        check = actions.add_parser("check", help="On a replica: compare with a file that export has written.")
        check.add_argument("file", help="The file, - is standard input.")
        check.add_argument("--format", choices=["text", "json"], default="text", help="Form of the output (text).")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do the one or the other; a check ends with an error where something does not fit."""
        (self._export if options["action"] == "export" else self._check)(options)

    def _export(self, options: dict[str, Any]) -> None:
        try:
            text = json.dumps(schema.export(options["cqrs_id"]), indent=2, sort_keys=True)
        except UnknownCQRSId as error:
            raise CommandError(str(error)) from error
        if options["output"] == "-":
            self.stdout.write(text)
            return
        try:
            Path(options["output"]).write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{options['output']} could not be written: {error.strerror}.") from error

    def _check(self, options: dict[str, Any]) -> None:
        path = options["file"]
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
            description = schema.read(text)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{path} could not be read: {error}.") from error
        except schema.SchemaError as error:
            raise CommandError(f"{path} is no schema of a master. {error}") from error
        findings = list(schema.compare(description))
        unknown = schema.not_compared(description)
        if options["format"] == "json":
            found = [{"cqrs_id": f.cqrs_id, "message": f.message, "deploy_first": f.first} for f in findings]
            self.stdout.write(json.dumps({"fits": not findings, "findings": found, "not_compared": unknown}, indent=2))
        else:
            for line in _lines(findings, unknown):
                self.stdout.write(line)
        if findings:
            raise CommandError(f"{len(findings)} things do not fit.")


def _lines(findings: Sequence[schema.Finding], unknown: Sequence[str]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.cqrs_id}: {finding.message}"
    for cqrs_id in unknown:
        yield f"{cqrs_id}: not compared, a serializer or hooks decide what travels."
    first = {finding.first for finding in findings}
    if schema.REPLICA in first:
        yield "Deploy a replica with wider columns first, then the master: a value that does not fit is a dead letter."
    if schema.MASTER in first:
        yield "Deploy the master first, then this replica; or give what it lacks a default here, or null=True."
    if None in first:
        yield "A primary key has to be the master's: no order of deploying helps."
    if not findings:
        yield "Everything that the master sends fits. Deploy in any order."
