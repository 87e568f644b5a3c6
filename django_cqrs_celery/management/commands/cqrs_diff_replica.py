"""``cqrs_diff_replica``: which of the master's rows are not here as the master has them."""

from __future__ import annotations

from typing import Any

from django_cqrs_celery import conf, diffs
from django_cqrs_celery.constants import NO_QUEUE
from django_cqrs_celery.management.piping import PipeCommand
from django_cqrs_celery.registries import ReplicaRegistry


class Command(PipeCommand):
    """Compare what ``cqrs_diff_master`` has printed with the rows of this replica."""

    help = "Reads what cqrs_diff_master prints, and prints for cqrs_diff_sync the keys of the rows that differ here."

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the head with this replica's queue, and the keys."""
        model, head, _ = self.begin(ReplicaRegistry)
        self.stdout.write(f"{head},{conf.queue() or NO_QUEUE}")
        total = diffs.Differing()
        try:
            for found in self.packages(lambda line: diffs.differing(model, diffs.revisions_of(line))):
                total += found
                if found.keys:
                    self.stdout.write(diffs.line_of(found.keys))
        finally:
            self.stderr.write(
                f"{model.CQRS_ID}: {total.missing} rows missing, {total.older} older, {total.newer} newer than listed."
            )
