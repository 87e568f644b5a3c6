"""Gathering messages into batches, in the worker's main process.

``cqrs_apply`` has this module's strategy instead of Celery's: where Celery hands each message to the pool by itself,
the gatherer hands over what has come meanwhile. A message that finds the pool free goes at once; while a batch is in
flight the next ones gather. Messages are acknowledged after the batch's commit.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django_cqrs_celery import conf, draining, presence, retries, tasks
from django_cqrs_celery.intake import Answer

logger = logging.getLogger("django_cqrs_celery.worker")

#: Attribute of Celery's consumer that holds the gatherer of its present connection.
_ATTRIBUTE = "cqrs_gatherer"
#: Losses of its process, or unexpected errors, after which a message is given to the dead-letter queue.
_LOSSES_ALLOWED = 3
#: A pool that works in the main process gathers this long, since nothing comes in while it works.
_SOLO_SECONDS = 0.005
#: Copies that landed before their messages came; a message that is not known among them is a duplicate.
_COPIES_REMEMBERED = 1000


@dataclass(eq=False)
class _Held:
    """A message that is not acknowledged yet.

    ``tag`` is its delivery tag on the gatherer's own RabbitMQ channel, where many can be acknowledged at once.
    """

    body: bytes | str
    identity: str
    ack: Callable[[], None]
    reject: Callable[[], None]
    tag: int | None = None
    alone: bool = False
    #: Whether it came again to a worker that applies in its main process, which it may have killed.
    suspect: bool = False


class Gatherer:
    """The messages that one connection of a worker has received and not yet acknowledged."""

    def __init__(self, consumer: Any, *, in_order: bool = False) -> None:
        self.consumer = consumer
        self.pool = consumer.pool
        #: What becomes of messages that are kept without being applied.
        self.drain = draining.Drain(consumer)
        #: Whether a batch waits for the one before it; such a queue has no dead-letter queue on the broker either.
        self._in_order = in_order
        self._lock = threading.RLock()
        self._waiting: deque[_Held] = deque()
        #: Delivery tags that are not acknowledged, in the order in which they came.
        self._outstanding: dict[int, None] = {}
        #: Messages of other tasks on the same channel; they are acknowledged by Celery.
        self._others: list[Any] = []
        #: The channel of the replica's queue, where it can acknowledge many messages at once.
        self.channel: Any = None
        self._in_flight = 0
        self._closed = False
        self._losses: dict[str, int] = consumer.__dict__.setdefault("cqrs_losses", {})
        self._retry_timer: Any = None
        self._retry_due = math.inf
        self._is_solo = type(self.pool).__module__.endswith("solo")
        #: Whether a message that kills its process kills the worker; the loss of a pool's process is noticed here.
        self.in_main_process = not type(self.pool).__module__.endswith(("prefork", "asynpool"))
        #: Identities of messages of which a copy has been committed before they came.
        self._landed_ahead: dict[str, None] = {}
        #: Whether a suspect is being applied: it may not take others with it.
        self._suspect_in_flight = False
        self._flush_planned = False

    @property
    def slots(self) -> int:
        """Batches that may be in flight at once: one for each process or thread of the pool."""
        if self._in_order:
            return 1
        return max(1, getattr(self.pool, "limit", None) or getattr(self.pool, "num_processes", 1) or 1)

    def add(self, held: _Held) -> None:
        """Take over a message."""
        with self._lock:
            if held.tag is not None:
                self._outstanding[held.tag] = None
            if held.identity in self._landed_ahead:
                del self._landed_ahead[held.identity]
                if not self._closed:
                    self._acknowledge([held])
                return
            self._waiting.append(held)
        if self._is_solo and self.consumer.hub:
            self._plan_flush()
        else:
            self.flush()

    def try_copy(self, body: bytes | str, identity: str) -> None:
        """Apply the copy of a lone change if the pool has nothing else to do; the message itself comes later."""
        with self._lock:
            if self._closed or self._waiting or self._in_flight >= self.slots or self._suspect_in_flight:
                return
            self._in_flight += 1

        def on_answer(is_done: bool) -> None:
            self._copy_over(identity, is_done)

        def on_error(error: Any) -> None:
            self._copy_over(identity, False)

        self.pool.apply_async(tasks.apply_copy, args=(body,), callback=on_answer, error_callback=on_error)

    def _copy_over(self, identity: str, is_done: bool) -> None:
        with self._lock:
            self._free_slot()
            came = [held for held in self._waiting if held.identity == identity] if is_done else []
            for held in came:
                self._waiting.remove(held)
            if came and not self._closed:
                self._acknowledge(came)
            elif is_done and not came:
                self._landed_ahead[identity] = None
                if len(self._landed_ahead) > _COPIES_REMEMBERED:
                    del self._landed_ahead[next(iter(self._landed_ahead))]
        self.flush()

    def let_pass(self, message: Any) -> None:
        """Note a message that Celery handles itself, so that it is not acknowledged along with a batch."""
        with self._lock:
            self._others.append(message)

    def give_up(self, message: Any) -> None:
        """Let the broker move a message to the dead-letter queue, or keep it here where the broker has none."""
        if self.channel is None or self._in_order:
            self.drain.take(message)
        else:
            message.reject_log_error(logger, self.consumer.connection_errors)

    def _plan_flush(self) -> None:
        if not self._flush_planned:
            self._flush_planned = True
            self.consumer.timer.call_after(_SOLO_SECONDS, self._planned_flush)

    def _planned_flush(self) -> None:
        self._flush_planned = False
        self.flush()

    def flush(self) -> None:
        """Hand batches to the pool while it has room."""
        while True:
            with self._lock:
                if self._closed or not self._waiting or self._in_flight >= self.slots or self._suspect_in_flight:
                    return
                if self._waiting[0].suspect:
                    if self._in_flight:
                        return
                    self._suspect_in_flight = True
                batch = self._next_batch()
                self._in_flight += 1
            self._submit(batch, 0)

    def _next_batch(self) -> list[_Held]:
        batch = [self._waiting.popleft()]
        limit = conf.batch_size()
        while self._waiting and len(batch) < limit and not (batch[0].alone or self._waiting[0].alone):
            batch.append(self._waiting.popleft())
        return batch

    def _submit(self, batch: list[_Held], attempt: int) -> None:
        def on_answer(answer: Answer) -> None:
            if answer.poison:
                self._poisonous(batch[0])
            elif answer.broken is not None:
                self._one_by_one(batch, f"failed unexpectedly ({answer.broken})")
            elif answer.again is None:
                self._landed(batch, answer)
            else:
                self._later(batch, attempt)

        def on_error(error: Any) -> None:
            self._one_by_one(batch, f"lost its process ({type(getattr(error, 'exception', error)).__name__})")

        work: Any = (tasks.apply_batch, ([held.body for held in batch],))
        if batch[0].suspect and not attempt:
            work = (tasks.apply_suspect, (batch[0].body, batch[0].identity))
        self.pool.apply_async(work[0], args=work[1], callback=on_answer, error_callback=on_error)

    def _landed(self, batch: list[_Held], answer: Answer) -> None:
        with self._lock:
            self._free_slot()
            for held in batch:
                self._losses.pop(held.identity, None)
            if not self._closed:
                self._acknowledge(batch)
        if answer.retry_in is not None:
            self.plan_retry(answer.retry_in)
        self.flush()

    def _free_slot(self) -> None:
        self._in_flight -= 1
        self._suspect_in_flight = False

    def _poisonous(self, held: _Held) -> None:
        """Give up a message that workers died of, one after the other."""
        logger.error(
            "A message was begun %s times, and each time its worker died; it goes to the dead-letter queue.",
            conf.delivery_limit(), extra={"action": "cqrs_poison"},
        )  # fmt: skip
        with self._lock:
            self._free_slot()
            if not self._closed:
                self._outstanding.pop(held.tag or 0, None)
                held.reject()
        self.flush()

    def _acknowledge(self, batch: list[_Held]) -> None:
        """Acknowledge a batch: by one frame where everything that came before it is acknowledged too."""
        tags = [held.tag for held in batch if held.tag is not None]
        for tag in tags:
            self._outstanding.pop(tag, None)
        if len(tags) == len(batch) and self.channel is not None:
            last = max(tags)
            self._others = [message for message in self._others if not message.acknowledged]
            first_other = min((message.delivery_tag for message in self._others), default=last + 1)
            if min(next(iter(self._outstanding), last + 1), first_other) > last:
                try:
                    self.channel.basic_ack(last, multiple=True)
                except self.consumer.connection_errors as error:
                    logger.warning("A batch could not be acknowledged and comes again: %s", error)
                return
        for held in batch:
            held.ack()

    def _later(self, batch: list[_Held], attempt: int) -> None:
        # Held in memory, not given back: a redelivery would count against the queue's delivery limit.
        if not self._closed:
            self.consumer.timer.call_after(retries.backoff(attempt), self._resubmit, (batch, attempt + 1))

    def _resubmit(self, batch: list[_Held], attempt: int) -> None:
        if not self._closed:
            self._submit(batch, attempt)

    def _one_by_one(self, batch: list[_Held], what: str) -> None:
        """Nobody knows what became of the batch: try each message alone, so that one at fault is found."""
        logger.warning(
            "A batch of %s messages %s; they are tried one by one.", len(batch), what,
            extra={"action": "cqrs_worker_lost"},
        )  # fmt: skip
        with self._lock:
            self._free_slot()
            alone = len(batch) == 1
            for held in reversed(batch):
                if alone:
                    self._losses[held.identity] = self._losses.get(held.identity, 0) + 1
                held.alone = True
                if self._losses.get(held.identity, 0) >= _LOSSES_ALLOWED:
                    logger.error(
                        "A message that was tried alone %s, %s times; it goes to the dead-letter queue.", what,
                        _LOSSES_ALLOWED, extra={"action": "cqrs_poison"},
                    )  # fmt: skip
                    if not self._closed:
                        self._outstanding.pop(held.tag or 0, None)
                        held.reject()
                else:
                    self._waiting.appendleft(held)
        self.flush()

    # -- dead letters ------------------------------------------------------------------------------------------------

    def plan_retry(self, seconds: float) -> None:
        """Try due dead letters again in ``seconds``; a sooner plan stays, a later one gives way."""
        due = time.monotonic() + max(0.05, seconds)
        with self._lock:
            if self._closed or self._retry_due <= due:
                return
            if self._retry_timer is not None:
                self._retry_timer.cancel()
            self._retry_due = due
            self._retry_timer = self.consumer.timer.call_after(due - time.monotonic(), self._run_retry)

    def _run_retry(self) -> None:
        with self._lock:
            self._retry_timer, self._retry_due = None, math.inf
            if self._closed:
                return

        def on_answer(answer: Answer) -> None:
            if answer.again is not None:
                self.plan_retry(retries.BACKOFF_CAP)
            elif answer.retry_in is not None:
                self.plan_retry(answer.retry_in)

        def on_error(error: Any) -> None:
            self.plan_retry(retries.BACKOFF_CAP)

        self.pool.apply_async(tasks.retry_batch, args=(), callback=on_answer, error_callback=on_error)

    def note_presence(self, seconds: float = presence.SECONDS) -> None:
        """Have it noted in ``seconds``, and then again and again, that this queue is consumed."""

        def on_answer(answer: Any) -> None:
            """The solo pool calls back whether one wants it or not."""

        def run() -> None:
            if not self._closed:
                self.note_presence()
                self.pool.apply_async(tasks.note_presence, args=(), callback=on_answer)

        self.consumer.timer.call_after(seconds, run)

    # -- life --------------------------------------------------------------------------------------------------------

    def stop_handing_out(self) -> None:
        """Start no further batch; those in flight are finished and acknowledged."""
        with self._lock:
            self._waiting.clear()

    def close(self) -> None:
        """The connection is gone: nothing can be acknowledged on it any more, the broker delivers again."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
        self.drain.close()


def gatherer_of(consumer: Any) -> Gatherer:
    """The gatherer of a consumer's present connection."""
    gatherer = consumer.__dict__.get(_ATTRIBUTE)
    if gatherer is None:
        gatherer = consumer.__dict__[_ATTRIBUTE] = Gatherer(consumer)
    return gatherer


def close_gatherer(consumer: Any) -> None:
    """Forget the gatherer of a connection that is gone."""
    gatherer = consumer.__dict__.pop(_ATTRIBUTE, None)
    if gatherer is not None:
        gatherer.close()


def receive(gatherer: Gatherer, message: Any, errors: tuple[type[BaseException], ...]) -> None:
    """Take over a message of the task that came on the gatherer's own channel."""
    gatherer.add(
        _Held(
            body=body_of(message), identity=str(message.headers.get("id") or hash(message.body)),
            tag=message.delivery_tag if gatherer.channel is not None else None,
            ack=lambda: message.ack_log_error(logger, errors), reject=lambda: gatherer.give_up(message),
            **_suspicion(gatherer, message),
        )  # fmt: skip
    )


def _suspicion(gatherer: Gatherer, message: Any) -> dict[str, bool]:
    """Whether a message came again to a worker that it may have killed; it is applied alone then, and counted."""
    came_again = gatherer.in_main_process and bool((message.delivery_info or {}).get("redelivered"))
    return {"suspect": came_again, "alone": came_again}


def strategy(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Callable[..., None]:
    """Celery's extension point ``Task.Strategy``: what to do with a received message of the task."""
    errors = consumer.connection_errors

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> None:
        gatherer = gatherer_of(consumer)
        held = _Held(
            body=body_of(message), identity=str(message.headers.get("id")),
            ack=lambda: ack(logger, errors), reject=lambda: reject(logger, errors, False),
            **_suspicion(gatherer, message),
        )  # fmt: skip
        gatherer.add(held)

    return on_message


def body_of(message: Any) -> bytes | str:
    """The body of a message as text or bytes, whatever the transport keeps it in."""
    body = message.body
    if isinstance(body, memoryview):
        return bytes(body)
    return body
