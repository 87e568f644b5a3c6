"""``cqrs_consume``: a Celery worker on the replica's queue, with sensible options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import autoreload

from django_cqrs_celery import conf, topology
from django_cqrs_celery.registries import ReplicaRegistry


class Command(BaseCommand):
    """Run a Celery worker on the replica's queue."""

    help = "Starts a Celery worker that applies changes from the replica's queue (CQRS['queue'])."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of django-cqrs and the pool."""
        parser.add_argument("-w", "--workers", type=int, default=1, help="Number of worker processes (1).")
        parser.add_argument(
            "-cid", "--cqrs-id", nargs="*", default=None, help="Bind the queue for these CQRS_IDs only."
        )
        parser.add_argument("-r", "--reload", action="store_true", help="Start anew when the code changes.")
        parser.add_argument(
            "--ignore-paths", nargs="*", default=(),
            help="Folders and files whose changes do not count, one by one or separated by commas.",
        )  # fmt: skip
        parser.add_argument("--pool", default="prefork", help="Celery pool: prefork, threads or solo (prefork).")
        parser.add_argument("-l", "--loglevel", default="INFO", help="Level of the worker's log (INFO).")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check the options, then hand over to Celery."""
        name = conf.queue()
        if name is None:
            raise CommandError("CQRS['queue'] is not set: name the queue of this replica service in the settings.")
        if options["workers"] < 1:
            raise CommandError("--workers is a whole number above 0.")
        unknown = set(options["cqrs_id"] or ()) - set(ReplicaRegistry.models)
        if unknown:
            known = ", ".join(sorted(ReplicaRegistry.models)) or "none"
            raise CommandError(f"No replica model has the CQRS_ID {', '.join(sorted(unknown))} (known: {known}).")
        if options["cqrs_id"]:
            topology.limit_bindings(options["cqrs_id"])
        if options["reload"]:
            self._ignore([path for word in options["ignore_paths"] or () for path in word.split(",") if path])
            autoreload.run_with_reloader(self._work, name, options)
        else:
            self._work(name, options)

    @staticmethod
    def _ignore(paths: Sequence[str]) -> None:
        ignored = [Path(path).resolve() for path in paths]

        def skip(sender: Any, file_path: Any, **kwargs: Any) -> bool | None:
            changed = Path(file_path).resolve()
            return True if any(path == changed or path in changed.parents for path in ignored) else None

        autoreload.file_changed.connect(skip, weak=False, dispatch_uid="django_cqrs_celery.cqrs_consume")

    @staticmethod
    def _work(name: str, options: dict[str, Any]) -> None:
        topology.celery_app().worker_main(
            [
                "worker", "--queues", name, "--concurrency", str(options["workers"]), "--pool", options["pool"],
                "--hostname", f"cqrs.{name}.%n.{_unique()}@%h", "--loglevel", options["loglevel"],
                "--without-gossip", "--without-mingle",
            ]
        )  # fmt: skip


def _unique() -> str:
    import os

    return str(os.getpid())
