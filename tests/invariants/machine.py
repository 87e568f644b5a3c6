"""The state machine: a project that writes, a network that misbehaves, and a replica that must come out equal.

Real are the models' saves and deletes, the outbox, the dispatch after commits, the intake, the applier and the dead
letters. Only the broker is a list of messages, which this machine delivers as it likes. A message that gets lost
is one whose publisher has learnt nothing of it: its outbox rows stay, and the relay publishes them again.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator

import pytest
from django.conf import settings
from django.db.models.functions import Now
from django.test import override_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from django_cqrs_celery import background, dispatcher, intake, modes, outbox
from django_cqrs_celery.constants import DeadLetterStatus
from django_cqrs_celery.models import DeadLetter
from tests import network, routing
from tests.invariants import operations, witness

_CQRS = {"queue": "cqrs_tests", "exchange": "cqrs_tests"}


class Wire(network.Network):
    """A network that fails at the message where it is told to: before it was sent, or after."""

    def __init__(self) -> None:
        super().__init__()
        self.good_for: int | None = None
        self.sent_all_the_same = False
        self.look: Callable[[], None] = lambda: None

    def publish(self, message: outbox.Message) -> None:
        self.look()
        if self.good_for is None:
            self.messages.append(message)
            return
        if self.good_for == 0:
            if self.sent_all_the_same:
                self.messages.append(message)
            raise dispatcher.PublishError("nothing was heard of the message")
        self.good_for -= 1
        self.messages.append(message)

    def relay(self, *, max_changes: int = 200, claim: int = 1000) -> None:
        """Publish what is due, in messages of so many changes, claiming so many rows at once."""
        sizes = {"dispatch": "relay", "message_max_changes": max_changes, "outbox_batch": claim}
        with override_settings(CQRS={**_CQRS, "master": sizes}):
            try:
                dispatcher.drain(routing.current["master"], self)
            except dispatcher.PublishError:
                pass
        self.good_for = None


class Steps(background.Background):
    """The background dispatcher without its thread: what it was told to publish waits for the machine."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._publisher = wire  # type: ignore[assignment]

    def wake(self, using: str) -> None:
        self._due.add(using)

    def step(self) -> None:
        """Do what the thread does when it has its turn."""
        due, self._due = self._due, set()
        self._publish(due)

    def _retry_later(self, using: str, error: Exception) -> None:
        if not isinstance(error, dispatcher.PublishError):
            raise error
        self._due.add(using)  # without the pause


class _Breaker(modes._Breaker):
    """Nobody asks the broker; the machine says when it is back."""

    def trip(self) -> None:
        self.is_open = True


class Replication(RuleBasedStateMachine):
    """Writes on the master, misfortunes on the way, and after each step the invariants."""

    #: Who publishes after a commit, besides the relay.
    dispatch = "relay"

    def __init__(self) -> None:
        super().__init__()
        witness.clear()
        self.hand = operations.Hand()
        self.wire = Wire()
        self.witness = witness.Witness()
        # A step may commit more than once, and each commit may be published.
        self.wire.look = lambda: self.witness.look_at_master()
        self.random = random.Random(0)
        self.background = Steps(self.wire)
        self._patches = pytest.MonkeyPatch()
        self._patches.setattr(background, "wake", self.background.wake)
        self._patches.setattr(modes._local, "publisher", self.wire)
        self._patches.setattr(modes, "_breaker", _Breaker())

    @initialize(seed=st.integers(0, 2**32), scripts=st.lists(operations.scripts, min_size=1, max_size=3))
    def begin(self, seed: int, scripts: list[operations.Script]) -> None:
        self.random.seed(seed)
        self.hand.populate()
        self.witness.look_at_master()
        self.write(scripts, every=False)

    @rule(scripts=st.lists(operations.scripts, min_size=1, max_size=3), every=st.booleans())
    def write(self, scripts: list[operations.Script], every: bool) -> None:
        """The project does something; after ``every`` transaction, or later, its changes are published."""
        for script in scripts:
            # Outside of a transaction the database commits each step.
            alone = script.end == "auto"
            for part in [operations.Script((step,), "auto") for step in script.steps] if alone else [script]:
                with self._dispatching():
                    self.hand.run(part)
                self.witness.look_at_master()
                if every:
                    self.relay()

    @rule(scripts=st.lists(operations.families, min_size=1, max_size=3))
    def write_families(self, scripts: list[operations.Script]) -> None:
        """The project deletes parents and brings them and their children back, all published one by one."""
        self.write(scripts, every=True)

    @contextlib.contextmanager
    def _dispatching(self) -> Iterator[None]:
        """In the mode of this machine; a broker that was lost before may be lost again."""
        master = {**settings.CQRS["master"], "dispatch": self.dispatch, "message_max_changes": 2}
        with override_settings(CQRS={**settings.CQRS, "master": master}):
            yield

    def relay(self, **sizes: int) -> None:
        """The thread of the background has its turn, or the relay runs; then the broker is there."""
        if self.background._due:
            with self._dispatching():
                self.background.step()
        else:
            self.wire.relay(**sizes)
        self.wire.good_for, modes._breaker.is_open = None, False

    @rule(max_changes=st.sampled_from([1, 2, 200]), claim=st.sampled_from([1, 3, 1000]))
    def publish(self, max_changes: int, claim: int) -> None:
        """The dispatcher or the relay runs."""
        self.relay(max_changes=max_changes, claim=claim)

    @rule(max_changes=st.sampled_from([1, 200]), good_for=st.integers(0, 2), sent=st.booleans())
    def publish_and_fail(self, max_changes: int, good_for: int, sent: bool) -> None:
        """The broker is lost on the way: the message at which it happens has been sent, or has not."""
        self.lose(good_for, sent)
        self.relay(max_changes=max_changes)

    def lose(self, good_for: int, sent: bool) -> None:
        """After so many messages the broker is lost, and is back when the dispatcher or the relay has run."""
        self.wire.good_for, self.wire.sent_all_the_same = good_for, sent

    @precondition(lambda self: self.dispatch != "relay")
    @rule(
        scripts=st.lists(operations.scripts, min_size=1, max_size=3), good_for=st.integers(0, 2), sent=st.booleans()
    )  # fmt: skip
    def lose_and_write(self, scripts: list[operations.Script], good_for: int, sent: bool) -> None:
        """The broker is lost while saves dispatch by themselves."""
        self.lose(good_for, sent)
        self.write(scripts, every=False)

    @rule(
        choice=st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=1, max_size=6),
        together=st.booleans(), retry=st.booleans(),
    )  # fmt: skip
    def deliver(self, choice: list[tuple[int, bool]], together: bool, retry: bool) -> None:
        """Some messages come, in any order, in one batch or one by one; of some another copy is still on the way."""
        messages = self.wire.messages
        chosen = [(number % len(messages), again) for number, again in choice if messages]
        batch = [messages[index] for index, _ in chosen]
        leave = {index for index, again in chosen if not again}
        self.wire.messages = [message for index, message in enumerate(messages) if index not in leave]
        for part in [batch] if together else [[message] for message in batch]:
            self._take(part)
        if retry:
            self._retry()

    @rule(count=st.integers(1, 4))
    def deliver_newest(self, count: int) -> None:
        """What was sent last overtakes all else."""
        for _ in range(min(count, len(self.wire.messages))):
            self._take([self.wire.messages.pop()])

    @rule(really=st.integers(0, 5))
    def settle_and_go_on(self, really: int) -> None:
        """Now and then all is quiet for a while."""
        if really == 0:
            self.settle()

    def settle(self) -> None:
        """Writing stops and everything is up: the replica becomes equal."""
        for _ in range(5):
            self.relay(max_changes=self.random.choice([1, 3, 200]))
        while self.wire.messages:
            self.random.shuffle(self.wire.messages)
            size = self.random.randint(1, 6)
            batch, self.wire.messages = self.wire.messages[:size], self.wire.messages[size:]
            self._take(batch)
        before = None
        while before != (before := _open_letters()):
            self._retry()
        assert not (found := witness.differences()), "\n".join(found)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.settle()
        finally:
            self._patches.undo()

    def _take(self, batch: list[outbox.Message]) -> None:
        if not batch:
            return
        bodies = [message.body for message in batch]
        self.witness.hear(bodies)
        answer = intake.take(bodies)
        assert answer.again is None, answer.again
        self.witness.look_at_replica()

    def _retry(self) -> None:
        DeadLetter.objects.filter(status=DeadLetterStatus.PENDING.value).update(next_retry_at=Now())
        answer = intake.retry_due()
        assert answer.again is None, answer.again
        self.witness.look_at_replica()


def _open_letters() -> list[tuple[int, str]]:
    return list(DeadLetter.objects.open().order_by("pk").values_list("pk", "status"))

