"""One base for every error that the project raises."""

from __future__ import annotations


class CQRSError(Exception):
    """Base of all errors of django-cqrs-celery."""


class ConfigurationError(CQRSError):
    """A setting or a model is not usable as it is written; the message says what to change."""


class UnknownCQRSId(CQRSError):
    """No model of this service is registered under the CQRS_ID."""


class EncodeError(CQRSError):
    """A value cannot be put into a message."""


class DecodeError(CQRSError):
    """A message or a change in it cannot be understood.

    ``raw`` is what arrived, so that it can be kept.
    """

    def __init__(self, reason: str, raw: object = None) -> None:
        super().__init__(reason)
        self.raw = raw


class UndeliverableMessage(DecodeError):
    """The broker gave up delivering a message, or no worker could handle it."""


class ApplyError(CQRSError):
    """A change cannot be applied to its replica model as it is."""


class MissingParent(ApplyError):
    """The row that a change refers to by a foreign key is not here yet."""

    def __init__(self, reason: str, cqrs_id: str | None, pk: str) -> None:
        super().__init__(reason)
        self.cqrs_id = cqrs_id
        self.pk = pk


class HookRefused(ApplyError):
    """A hook of the replica model returned a negative value."""


class ExpiredChange(ApplyError):
    """The change is older than ``CQRS_MESSAGE_TTL`` allows."""


class PublishError(CQRSError):
    """The broker did not confirm a message; the change stays in the outbox."""


class Unroutable(PublishError):
    """No queue is bound for the CQRS_ID; the change stays in the outbox."""


class Rejected(PublishError):
    """A queue took no more, the other queues did; the change stays in the outbox and is sent to all again."""
