"""Who dispatches after a commit: a thread of the process, the saving thread itself, or nobody but the relay."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from typing import Any

from django.db import connections

from django_cqrs_celery import background, conf, retries, topology, utils
from django_cqrs_celery.dispatcher import Publisher, drain, publish_unpromised
from django_cqrs_celery.exceptions import PublishError

logger = logging.getLogger("django_cqrs_celery.dispatcher")


class _Local(threading.local):
    def __init__(self) -> None:
        self.publisher = Publisher()


_local = _Local()


class _Breaker:
    """Keeps saves from waiting for a broker that is away: once it failed, only a thread asks whether it is back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_open = False

    def trip(self) -> None:
        """Let saves go on without dispatch until the broker confirms again."""
        with self._lock:
            if not self.is_open:
                self.is_open = True
                threading.Thread(target=self._probe, name="cqrs-probe", daemon=True).start()

    def _probe(self) -> None:
        publisher, failures = Publisher(), 0
        while self.is_open:
            time.sleep(retries.backoff(failures))
            failures += 1
            try:
                publisher.probe()
                self.is_open = False
            except Exception as error:  # whatever it is: saves may not wait for it, and the next try comes
                logger.debug("The broker is still away: %s", error, extra={"action": "cqrs_probe_failed"})
            finally:
                publisher.close()

    def forget(self) -> None:
        """Start anew in a forked child, which has no such thread."""
        self.__init__()  # type: ignore[misc]


_breaker = _Breaker()
os.register_at_fork(after_in_child=_breaker.forget)


def mode_for(using: str) -> str:
    """The dispatch mode in force for a database alias.

    SQLite lets one connection write at a time: a thread of its own would make saves wait and fail, so they dispatch by
    themselves. Eager Celery has no broker to wait for.
    """
    mode = conf.dispatch()
    if mode == "background" and (
        connections[using].vendor == "sqlite" or topology.celery_app().conf.task_always_eager
    ):
        return "on_commit"
    return mode


def on_outbox_committed(sender: Any, using: str, **kwargs: Any) -> None:
    """Dispatch what a commit has promised, as the settings say; never fails, and waits for no broker that is away."""
    try:
        mode = mode_for(using)
        if mode == "on_commit":
            if not utils.hold(using):
                _dispatch_inline(using)
        elif mode == "background":
            background.wake(using)
    except Exception as error:  # the save is committed; the outbox keeps the change for the relay
        logger.warning(
            "Changes could not be dispatched and wait for the relay: %s: %s", type(error).__name__, error,
            extra={"action": "cqrs_dispatch_failed"},
        )  # fmt: skip


def on_unpromised_committed(sender: Any, row: Any, using: str, **kwargs: Any) -> None:
    """Publish a save that has no outbox row: by the thread in the mode ``background``, else here and now."""
    try:
        if mode_for(using) == "background":
            background.post(row, using)
        else:
            publish_unpromised([row], using, _local.publisher)
    except Exception as error:  # the save is committed, and whoever switched the outbox off accepts this
        logger.error(
            "A change without an outbox row was lost: %s: %s", type(error).__name__, error,
            extra={"action": "cqrs_unpromised_lost"},
        )  # fmt: skip


def _dispatch_inline(using: str) -> None:
    if _breaker.is_open:
        return
    # Others may have left much: a save takes no longer than for a broker that does not answer.
    seconds = math.inf if topology.is_eager() else conf.publish_timeout()
    try:
        drain(using, _local.publisher, seconds=seconds)
    except PublishError as error:
        _breaker.trip()
        logger.warning("%s The relay sends it later.", error, extra={"action": "cqrs_dispatch_failed"})
