"""What beat runs: merge ``beat_schedule()`` into ``CELERY_BEAT_SCHEDULE``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_cqrs_celery import constants


def beat_schedule(
    *,
    relay_seconds: float = 5.0,
    retry_seconds: float = 10.0,
    purge_seconds: float = 3600.0,
    sync_seconds: float | None = 3600.0,
    sync_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """The entries of relay, retries, clean-up and digests, in the form of Celery's ``beat_schedule``; times in seconds.

    ``sync_seconds``: None for no digests; ``sync_kwargs``: arguments of the task ``cqrs_sync``, such as
    ``{"content": True}``.

    The same for every service: when an entry is due, its task goes to the queue that the ``CQRS`` settings name, and
    nowhere where the service has no part in it (a pure replica sends no relay, a pure master no retries). So it can be
    called in a settings module.
    """

    def entry(task: str, seconds: float) -> dict[str, Any]:
        return {"task": task, "schedule": seconds, "options": {"expires": max(10.0, 2 * seconds)}}

    entries = {
        "cqrs-relay": entry(constants.TASK_RELAY, relay_seconds),
        "cqrs-retry-dead-letters": entry(constants.TASK_RETRY, retry_seconds),
        "cqrs-purge": entry(constants.TASK_PURGE, purge_seconds),
    }
    if sync_seconds is not None:
        kwargs = {"mode": "digest", **(sync_kwargs or {})}
        entries["cqrs-sync"] = {**entry(constants.TASK_SYNC, sync_seconds), "kwargs": kwargs}
    return entries
