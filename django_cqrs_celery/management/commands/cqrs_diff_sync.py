"""``cqrs_diff_sync``: send the rows that a replica has found to differ."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_cqrs_celery import diffs, dispatcher, sync
from django_cqrs_celery.exceptions import PublishError
from django_cqrs_celery.management.piping import PipeCommand
from django_cqrs_celery.management.progress import Progress
from django_cqrs_celery.registries import MasterRegistry


class Command(PipeCommand):
    """Send the rows whose keys ``cqrs_diff_replica`` has printed to that replica."""

    help = "Reads what cqrs_diff_replica prints, and sends those rows to the replica's queue."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of django-cqrs."""
        parser.add_argument("-b", "--batch", type=int, default=2000, help="Rows that are read at once (2000).")
        parser.add_argument("-p", "--progress", action="store_true", help="Show progress.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Publish the rows."""
        if options["batch"] < 1:
            raise CommandError("--batch is a whole number above 0.")
        model, _, queue = self.begin(MasterRegistry, from_replica=True)
        progress = Progress(self.stderr, None, model.CQRS_ID) if options["progress"] else None
        publisher, sent, refused = dispatcher.Publisher(), 0, {}
        try:
            for keys in self.packages(lambda line: diffs.keys_of(model, line)):
                for start in range(0, len(keys), options["batch"]):
                    rows = sync.select(model, {"pk__in": keys[start : start + options["batch"]]})
                    done = sync.resend(rows, publisher.publish, queue=queue, size=options["batch"])
                    sent += done.rows
                    refused.update(done.refused)
                    if progress:
                        progress.show(sent)
        except PublishError as error:
            raise CommandError(f"{error} Run the pipe again when the broker takes messages.") from error
        finally:
            publisher.close()
            if progress:
                progress.show(sent, last=True)
            for key, reason in list(refused.items())[:20]:
                self.stderr.write(f"{model.CQRS_ID} {key} was not sent: {reason}")
            self.stdout.write(f"{model.CQRS_ID}: {sent} rows sent to {queue or 'all replicas'}.")
