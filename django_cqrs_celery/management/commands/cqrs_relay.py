"""``cqrs_relay``: publish what the outbox holds."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError, connections

from django_cqrs_celery import dispatcher, outbox, retries
from django_cqrs_celery.exceptions import PublishError

logger = logging.getLogger("django_cqrs_celery.relay")


class Command(BaseCommand):
    """Publish what dispatch has left in the outbox."""

    help = "Publishes what is pending in the outbox and exits; with --loop it stays and publishes what comes."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add ``--loop`` and ``--interval``."""
        parser.add_argument("--loop", action="store_true", help="Stay and look again and again.")
        parser.add_argument(
            "--interval", type=float, default=0.2, help="Seconds between two looks at an empty outbox (0.2)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run once, or until interrupted."""
        if options["interval"] <= 0:
            raise CommandError("--interval is a number of seconds above 0.")
        if not options["loop"]:
            try:
                published = dispatcher.relay()
            except PublishError as error:
                raise CommandError(f"{error} The changes stay in the outbox; run the command again.") from error
            self.stdout.write(f"{published.changes} changes published in {published.messages} messages.")
            return
        with _stop_signals() as stop:
            self._stay(options["interval"], stop)
        self.stdout.write("Stopped.")

    def _stay(self, interval: float, stop: threading.Event) -> None:
        publisher, failures = dispatcher.Publisher(), 0
        self.stdout.write("Relaying; stop with Ctrl+C.")
        while not stop.is_set():
            try:
                claimed = sum(dispatcher.publish_once(using, publisher).claimed for using in outbox.aliases())
                failures = 0
            except Exception as error:  # whatever it is: who would publish if the relay ended?
                if failures == 0:
                    _say(error)
                for connection in connections.all(initialized_only=True):
                    connection.close_if_unusable_or_obsolete()
                stop.wait(retries.backoff(failures))
                failures += 1
                continue
            if not claimed:
                stop.wait(interval)
        publisher.close()


def _say(error: Exception) -> None:
    if isinstance(error, (PublishError, DatabaseError, InterfaceError)):
        logger.warning("%s", error, extra={"action": "cqrs_relay_failed"})
        return
    # Not exc_info: the text of an error may hold values.
    logger.error(
        "The relay met an error that it does not know, and goes on: %s\n%s", type(error).__name__,
        "".join(traceback.format_tb(error.__traceback__)), extra={"action": "cqrs_relay_failed"},
    )  # fmt: skip


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that the batch in hand is finished and nothing stays leased."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
