"""``cqrs_diff_master``: which rows this master has, and at which revisions."""

from __future__ import annotations

from django_cqrs_celery.management.piping import ListingCommand
from django_cqrs_celery.registries import MasterRegistry


class Command(ListingCommand):
    """Print keys and revisions of a master model."""

    help = "Prints keys and revisions of a master model for cqrs_diff_replica."
    registry = MasterRegistry
