"""Workers that really run at the same time: threads, each with database connections of its own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections

from django_cqrs_celery import intake

#: Seconds after which a race has hung.
DEADLINE = 120


def run_together(*jobs: Callable[[], Any]) -> None:
    """Start the jobs at the same moment and wait for them; raises what the first of them raised."""
    start = threading.Barrier(len(jobs))
    errors: list[BaseException] = []

    def body(job: Callable[[], Any]) -> None:
        try:
            start.wait(DEADLINE)
            job()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=body, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    until = time.monotonic() + DEADLINE
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive(), "a racing thread hangs"
    if errors:
        raise errors[0]


class Workers:
    """Replica workers that take batches from one pile, as the processes of a pool do."""

    def __init__(self, batches: Sequence[Sequence[bytes]]) -> None:
        self.pile = list(batches)
        self.again = 0

    def run(self, count: int = 2) -> None:
        """Take all batches, so many at a time."""
        run_together(*[self._work] * count)

    def _work(self) -> None:
        while True:
            try:
                batch = self.pile.pop(0)
            except IndexError:
                return
            until = time.monotonic() + DEADLINE
            while (answer := intake.take(batch)).again is not None:
                assert time.monotonic() < until, answer.again
                self.again += 1
                time.sleep(random.uniform(0, 0.05))  # as the gatherer does, so that those who met part
