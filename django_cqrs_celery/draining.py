"""The replica's dead-letter queue in a Celery worker: what the broker gave up delivering becomes dead letters.

It holds what no worker could read (an unknown task) and what kept killing its worker. Such a message is only kept,
never applied. Brokers without dead-letter queues drop what is rejected, so there it comes here at once.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from django_cqrs_celery import retries, tasks
from django_cqrs_celery.intake import Answer

logger = logging.getLogger("django_cqrs_celery.worker")

#: Messages that are kept by one call of the pool, and that the broker hands out ahead of it.
BATCH = 50


class Drain:
    """Messages to be kept, of one connection of a worker: one batch in the pool at a time."""

    def __init__(self, consumer: Any, reason: str | None = None) -> None:
        self.consumer = consumer
        #: Why messages come here, where they do not tell it themselves.
        self.reason = reason
        self._waiting: deque[Any] = deque()
        self._busy = self._closed = False

    def take(self, message: Any) -> None:
        """Keep a message and acknowledge it once it is stored."""
        self._waiting.append(message)
        self._next()

    def _next(self) -> None:
        if self._busy or self._closed or not self._waiting:
            return
        self._busy = True
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        self._submit(batch, 0)

    def _submit(self, batch: list[Any], attempt: int) -> None:
        def on_answer(answer: Answer) -> None:
            if answer.again is None:
                self._stored(batch)
            else:
                self._later(batch, attempt)

        def on_error(error: Any) -> None:
            self._later(batch, attempt)

        parked = [(_text(message.body), self.reason or why(message)) for message in batch]
        self.consumer.pool.apply_async(tasks.keep_batch, args=(parked,), callback=on_answer, error_callback=on_error)

    def _stored(self, batch: list[Any]) -> None:
        self._busy = False
        if not self._closed:
            for message in batch:
                message.ack_log_error(logger, self.consumer.connection_errors)
        self._next()

    def _later(self, batch: list[Any], attempt: int) -> None:
        if not self._closed:
            self.consumer.timer.call_after(retries.backoff(attempt), self._again, (batch, attempt + 1))

    def _again(self, batch: list[Any], attempt: int) -> None:
        if not self._closed:
            self._submit(batch, attempt)

    def close(self) -> None:
        """The connection is gone: the broker delivers again what is not acknowledged."""
        self._closed = True
        self._waiting.clear()


def _text(body: Any) -> bytes | str:
    return body if isinstance(body, str) else bytes(body)


def why(message: Any) -> str:
    """Why a message is not applied, in a sentence; from the headers that RabbitMQ adds when it dead-letters."""
    headers = message.headers if isinstance(message.headers, dict) else {}
    task = headers.get("task")
    deaths = headers.get("x-death") or [{}]
    reason = deaths[0].get("reason") if isinstance(deaths[0], dict) else None
    if reason == "delivery_limit":
        return "The message came back more often than CQRS['replica']['delivery_limit'] allows: it kills its worker."
    if reason in ("maxlen", "expired"):
        return f"The broker took the message out of the replica's queue ({reason})."
    if not isinstance(task, str):
        return "The message is not that of a Celery task."
    return f"The message could not be handled by a worker (task {task[:200]!r})."
