"""``cqrs_deleted_sync_replica``: delete the rows that the master has found not to be there."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django_cqrs_celery import diffs
from django_cqrs_celery.constants import Outcome
from django_cqrs_celery.management.piping import PipeCommand
from django_cqrs_celery.registries import ReplicaRegistry


class Command(PipeCommand):
    """Delete the rows that ``cqrs_deleted_diff_master`` has printed."""

    help = "Reads what cqrs_deleted_diff_master prints, and deletes those rows, unless they have changed since."

    def handle(self, *args: Any, **options: Any) -> None:
        """Apply the deletes."""
        model, _, _ = self.begin(ReplicaRegistry)
        total: Counter[Outcome] = Counter()
        try:
            for outcomes in self.packages(lambda line: diffs.delete(model, diffs.revisions_of(line))):
                total.update(outcomes)
        finally:
            text = f"{model.CQRS_ID}: {total[Outcome.DELETED]} rows deleted"
            text += f", {total[Outcome.STALE]} have changed since and stay" if total[Outcome.STALE] else ""
            text += f", {total[Outcome.FAILED]} kept as dead letters" if total[Outcome.FAILED] else ""
            self.stdout.write(f"{text}.")
