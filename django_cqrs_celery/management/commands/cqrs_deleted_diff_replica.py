"""``cqrs_deleted_diff_replica``: which rows this replica has, and at which revisions."""

from __future__ import annotations

from django_cqrs_celery.management.piping import ListingCommand
from django_cqrs_celery.registries import ReplicaRegistry


class Command(ListingCommand):
    """Print keys and revisions of a replica model."""

    help = "Prints keys and revisions of a replica model for cqrs_deleted_diff_master."
    registry = ReplicaRegistry
