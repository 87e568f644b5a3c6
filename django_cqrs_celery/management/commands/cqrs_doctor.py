"""``cqrs_doctor``: says what is wrong with an installation, or what to change in a project for django-cqrs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_cqrs_celery import doctor, migrating
from django_cqrs_celery.exceptions import ConfigurationError


class Command(BaseCommand):
    """Examine this installation, or a project that is to be moved."""

    help = "Says line by line what is wrong with this installation, or what to change in a project for django-cqrs."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add ``--migrating``, ``--strict`` and ``--format``."""
        parser.add_argument(
            "--migrating", metavar="PATH",
            help="Read the project in this directory, which was written for django-cqrs, and say what to change in it.",
        )  # fmt: skip
        parser.add_argument("--strict", action="store_true", help="Fail for what is only to be looked at, too.")
        parser.add_argument("--format", choices=["text", "json"], default="text", help="Form of the output (text).")

    def handle(self, *args: Any, **options: Any) -> None:
        """Look, print, and fail with exit code 1 where something is wrong or has to be changed."""
        if options["migrating"]:
            bad, found, lines = "change", *_migrating(options["migrating"])
        else:
            bad, found, lines = "wrong", *_running()
        counts = {level: sum(each["level"] == level for each in found) for level in (bad, "look")}
        if options["format"] == "json":
            self.stdout.write(json.dumps({**counts, "findings": found}, indent=2))
        else:
            for line in lines:
                self.stdout.write(line)
        if counts[bad] or (counts["look"] and options["strict"]):
            raise CommandError(f"{counts[bad]} {'to ' * (bad == 'change')}{bad}, {counts['look']} to look at.")


def _running() -> tuple[list[dict[str, Any]], list[str]]:
    found, lines = [], []
    for each in doctor.examine():
        found.append({**asdict(each), "level": str(each.level)})
        lines.append(f"{each.level}: {each.subject} {each.what}" + (f" → {each.cure}" if each.cure else ""))
    return found, lines


def _migrating(path: str) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        read = migrating.read(Path(path))
    except ConfigurationError as error:
        raise CommandError(str(error)) from error
    found = [{**asdict(each), "level": "change" if each.must else "look"} for each in read]
    return found, [str(each) for each in read]
