"""The background dispatcher: one lazily started thread per process that publishes after commits.

At once when idle; while saves keep coming it gathers them for a few milliseconds. It survives forks (a child starts a
thread of its own), is flushed at exit, and retries with backoff while the broker is away.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import Any

from django.db import DatabaseError, InterfaceError, connections

from django_cqrs_celery import conf, dispatcher, retries
from django_cqrs_celery.exceptions import PublishError

logger = logging.getLogger("django_cqrs_celery.dispatcher")

#: Seconds without work after which the thread gives up its database connections.
IDLE_SECONDS = 20.0


class Background:
    """The thread and what it has been told."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: set[str] = set()
        #: Saves without an outbox row, by database alias.
        self._unpromised: dict[str, list[Any]] = {}
        #: When to look again at outboxes in which rows have been put back for a while.
        self._later: dict[str, float] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._publisher = dispatcher.Publisher()
        self._failures = 0

    def wake(self, using: str) -> None:
        """Tell that an outbox has new rows; returns at once."""
        with self._changed:
            self._due.add(using)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="cqrs-dispatcher", daemon=True)
                self._thread.start()
            self._changed.notify()

    def post(self, row: Any, using: str) -> None:
        """Hand over a save that has no outbox row; returns at once."""
        with self._changed:
            self._unpromised.setdefault(using, []).append(row)
        self.wake(using)

    def flush(self, timeout: float) -> None:
        """Publish what is due and end the thread; gives up after ``timeout`` seconds, the outbox keeps the rest."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        with self._changed:
            self._stopping = True
            self._changed.notify()
        thread.join(timeout)

    def forget(self) -> None:
        """Start anew in a forked child: thread, connection and locks belong to the parent."""
        self._publisher.forget()
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        try:
            while True:
                due = self._next()
                if due is None:
                    return
                self._publish(due)
                if self._due and not self._stopping:
                    time.sleep(conf.gather_seconds())
        finally:
            self._publisher.close()
            connections.close_all()

    def _next(self) -> set[str] | None:
        with self._changed:
            while not self._due:
                if self._stopping:
                    return None
                now = time.monotonic()
                pause = min(self._later.values(), default=now + IDLE_SECONDS) - now
                if not self._changed.wait(max(0.0, pause)) and not self._look_again():
                    connections.close_all()
            due, self._due = self._due, set()
            return due

    def _look_again(self) -> bool:
        now = time.monotonic()
        ripe = {using for using, when in self._later.items() if when <= now}
        self._later = {using: when for using, when in self._later.items() if using not in ripe}
        self._due |= ripe
        return bool(self._later or ripe)

    def _publish(self, due: set[str]) -> None:
        for using in due:
            try:
                with self._changed:
                    unpromised = self._unpromised.pop(using, [])
                if unpromised:
                    dispatcher.publish_unpromised(unpromised, using, self._publisher)
                published = dispatcher.drain(using, self._publisher)
                self._failures = 0
                if published.rejected or published.unroutable:
                    self._later.setdefault(using, time.monotonic() + dispatcher.REJECTED_PAUSE)
            except (PublishError, DatabaseError, InterfaceError) as error:
                self._retry_later(using, error)
            except Exception as error:  # the thread must live: one bad claim may not stop all later ones
                self._retry_later(using, error)

    def _retry_later(self, using: str, error: Exception) -> None:
        if self._failures == 0:
            logger.warning(
                "Changes stay in the outbox and are tried again: %s: %s", type(error).__name__, error,
                extra={"action": "cqrs_dispatch_failed"},
            )  # fmt: skip
        connections[using].close_if_unusable_or_obsolete()
        delay = retries.backoff(self._failures)
        self._failures += 1
        with self._changed:
            if self._stopping:
                return
            self._changed.wait_for(lambda: self._stopping, timeout=delay)
            if not self._stopping:
                self._due.add(using)


_background = Background()
wake = _background.wake
post = _background.post


def flush(timeout: float | None = None) -> None:
    """Publish what is due before the process ends."""
    _background.flush(conf.publish_timeout() + 1 if timeout is None else timeout)


atexit.register(flush)
os.register_at_fork(after_in_child=_background.forget)


def flush_at_exit(**kwargs: object) -> None:
    """For the signals of a Celery worker, whose processes end without Python's own exit handlers."""
    flush()
