"""For tests of projects that replicate: a network in memory, the real capture on one end, the real apply on the other.

Nothing is mocked but the broker: messages are encoded and decoded as on the way, in any order that the test wants.
"""

from __future__ import annotations

from django_cqrs_celery import dispatcher, intake, outbox
from django_cqrs_celery.exceptions import CQRSError, PublishError
from django_cqrs_celery.models import DeadLetter


class Network:
    """Published messages that wait to be delivered. ``using`` is the database alias of the master models."""

    def __init__(self, using: str = "default") -> None:
        self.using = using
        #: Messages that are on their way, in the order in which they were published.
        self.messages: list[outbox.Message] = []
        #: Set to True to have the broker take nothing.
        self.fails = False

    def publish(self, message: outbox.Message) -> None:
        """Take the place of a publisher of the dispatcher. Raises ``PublishError`` while ``fails`` is set."""
        if self.fails:
            raise PublishError("The broker of the test takes nothing.")
        self.messages.append(message)

    def pump(self) -> int:
        """Publish what the outbox holds; returns the number of messages that it became."""
        before = len(self.messages)
        dispatcher.drain(self.using, self)
        return len(self.messages) - before

    def deliver(self, *indexes: int) -> intake.Answer:
        """Deliver some of the messages in one batch, or all of them; they stay, to be delivered again.

        Raises ``CQRSError`` where the replica's database is away.
        """
        chosen = [self.messages[index] for index in indexes] if indexes else list(self.messages)
        answer = intake.take([message.body for message in chosen])
        if answer.again is not None:
            raise CQRSError(f"The replica's database cannot take changes: {answer.again}")
        return answer

    def run(self, *, strict: bool = False) -> intake.Answer:
        """Publish and deliver everything once. With ``strict``, raises ``CQRSError`` for the first dead letter."""
        self.pump()
        answer = self.deliver()
        self.messages.clear()
        if strict and answer.failed:
            letter = DeadLetter.objects.open().order_by("pk").last()
            raise CQRSError(f"A change could not be applied: {letter}\n{letter.traceback if letter else ''}")
        return answer
