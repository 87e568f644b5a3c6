"""``cqrs_deleted_diff_master``: which of a replica's rows this master does not have."""

from __future__ import annotations

from typing import Any

from django_cqrs_celery import diffs
from django_cqrs_celery.management.piping import PipeCommand
from django_cqrs_celery.registries import MasterRegistry


class Command(PipeCommand):
    """Compare what ``cqrs_deleted_diff_replica`` has printed with the rows of this master."""

    help = (
        "Reads what cqrs_deleted_diff_replica prints, and prints for cqrs_deleted_sync_replica the rows that are not"
        " here."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the head, and keys with the revisions of their deletes."""
        model, head, _ = self.begin(MasterRegistry)
        self.stdout.write(head)
        count = 0
        try:
            for pairs in self.packages(lambda line: diffs.deleted(model, diffs.revisions_of(line))):
                count += len(pairs)
                if pairs:
                    self.stdout.write(diffs.line_of(pairs))
        finally:
            self.stderr.write(f"{model.CQRS_ID}: {count} rows are not on the master.")
