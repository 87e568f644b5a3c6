"""Traps: a process that comes to a step for which a file lies in its folder takes the file away and is gone.

Whoever renames the file first is the one that dies, so one file kills one process.
"""

from __future__ import annotations

import functools
import os
import signal
from typing import Any

FOLDER = os.environ.get("SABOTAGE_TRAPS", "")


def spring(step: str) -> None:
    """Die here if a trap has been laid for this step."""
    path = os.path.join(FOLDER, step)
    try:
        os.rename(path, f"{path}.sprung")
    except FileNotFoundError:
        return
    with open(f"{path}.sprung", "w") as file:
        file.write(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: Any, name: str, *, before: str | None = None, after: str | None = None) -> None:
    """Put the steps ``before`` and ``after`` around a function."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def trapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            spring(before)
        result = original(*args, **kwargs)
        if after:
            spring(after)
        return result

    setattr(owner, name, trapped)


def lay() -> None:
    """Name the steps of the way of a change, on the master and on a replica."""
    import amqp
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from django_cqrs_celery import applier, batching, dead_letters, dispatcher, intake, outbox
    from django_cqrs_celery.constants import Outcome

    wrap(Model, "_save_table", after="row_written")
    wrap(BaseDatabaseWrapper, "_commit", before="before_commit", after="committed")
    wrap(outbox, "compose", before="claimed")
    wrap(amqp.Channel, "_basic_publish", after="sent")
    wrap(dispatcher.Publisher, "publish", after="confirmed")
    wrap(dispatcher, "_settle", before="before_settle")

    wrap(batching.Gatherer, "add", before="main_received")
    wrap(batching.Gatherer, "_landed", before="main_before_ack")
    wrap(intake, "take", before="received")
    wrap(dead_letters.Keeper, "set_aside", after="letter_written")

    _count(applier, "apply", "again", lambda outcomes: _sum_of(outcomes, Outcome.DUPLICATE, Outcome.STALE))
    _count(batching.Gatherer, "add", "messages", lambda nothing: 1)
    _count(dead_letters.Keeper, "set_aside", "failures", lambda nothing: 1)


def _sum_of(outcomes: Any, *wanted: Any) -> int:
    return sum(outcome in wanted for outcome in outcomes)


def _count(owner: Any, name: str, file_name: str, number_of: Any) -> None:
    """Write down, for each call of a function, a number that is made of its result."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        number = number_of(result)
        if number:
            with open(os.path.join(FOLDER, file_name), "a") as file:
                file.write(f"{number}\n")
        return result

    setattr(owner, name, counted)
