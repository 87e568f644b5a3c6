"""Intake: bodies of messages in, rows and dead letters out. Joins the replica's stages; knows nothing of Celery."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections, router, transaction

from django_cqrs_celery import applier, bridge, conf, dead_letters, linking, presence, recreations
from django_cqrs_celery.constants import Outcome, SignalType
from django_cqrs_celery.dataclasses import TransportPayload, decode_message
from django_cqrs_celery.exceptions import DecodeError, UndeliverableMessage
from django_cqrs_celery.models import DeadLetter, Suspect

logger = logging.getLogger("django_cqrs_celery.intake")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a batch.

    ``again``: name of the infrastructure error for which the whole batch has to be tried again, None when all of it is
    stored. ``broken``: name of an error that nobody expected, and that a message may be at fault for. ``poison``: the
    message was begun so often that it is taken for what kills its worker; it was not applied. ``retry_in``:
    seconds until a dead letter of the batch is due, None where there is none.
    """

    again: str | None = None
    broken: str | None = None
    poison: bool = False
    retry_in: float | None = None
    applied: int = 0
    failed: int = 0


def take(bodies: Sequence[bytes | str]) -> Answer:
    """Apply the messages with these bodies. Never raises for what is in a message: what cannot be applied is kept."""
    try:
        reading = _Reading()
        for body in bodies:
            reading.read_message(body)
        return reading.apply()
    except applier.INFRASTRUCTURE as error:
        return _again(error)
    except Exception as error:  # not every pool tells of it
        return Answer(broken=_say_broken(error))
    finally:
        _tidy_connections()


def take_suspect(body: bytes | str, identity: str) -> Answer:
    """Apply a message that came again, unless it was begun as often as ``delivery_limit`` allows and never ended.

    The count is committed before anything is applied: it outlives a process that the message kills.
    """
    suspects = Suspect.objects.using(dead_letter_alias())
    identity = identity[:64]
    try:
        if suspects.begin(identity) > conf.delivery_limit():
            suspects.end(identity)
            return Answer(poison=True)
    except applier.INFRASTRUCTURE as error:
        _tidy_connections()
        return _again(error)
    answer = take([body])
    with contextlib.suppress(*applier.INFRASTRUCTURE):  # else it has one count too many
        suspects.end(identity)
    return answer


def take_copy(body: bytes | str) -> bool:
    """Apply the copy of a lone change, if one statement does it; whether it did. Whatever goes wrong, its message
    comes and is dealt with as ever."""
    try:
        [data] = decode_message(body)
        return not recreations.are_possible() and applier.apply_alone(TransportPayload.from_dict(data))
    except Exception as error:  # the message itself will say more
        logger.debug("A copy was of no use: %s", type(error).__name__, extra={"action": "cqrs_copy_failed"})
        return False
    finally:
        _tidy_connections()


def note_presence() -> None:
    """Note that a worker is there for the replica's queue."""
    try:
        presence.note()
    finally:
        _tidy_connections()


def take_changes(data: Sequence[Any]) -> Answer:
    """Apply changes that are already read from JSON; infrastructure errors are raised."""
    reading = _Reading()
    reading.read_changes(data)
    return reading.apply()


def keep(parked: Sequence[tuple[bytes | str, str]]) -> Answer:
    """Keep messages as dead letters unapplied, each with the reason; the changes of a readable one each alone."""
    kept = 0
    try:
        with transaction.atomic(using=dead_letter_alias()):
            for body, reason in parked:
                for part in _parts(body):
                    dead_letters.keep_unreadable(part, UndeliverableMessage(reason, part))
                    kept += 1
        return Answer(failed=kept)
    except applier.INFRASTRUCTURE as error:
        return _again(error)
    except Exception as error:
        return Answer(again=_say_broken(error))
    finally:
        _tidy_connections()


def _parts(body: bytes | str) -> Sequence[Any]:
    """The changes of a body that can be read, each alone; else the body."""
    try:
        if bridge.is_foreign(body):
            return [bridge.read_body(body).to_dict()]
        return decode_message(body) or [body]
    except DecodeError:
        return [body]


def retry_due() -> Answer:
    """Try the dead letters again whose time has come, and what waited for a row that is here by now."""
    try:
        applied = failed = 0
        soonest: float | None = None
        for using in dead_letters.aliases():
            dead_letters.wake_waiting(using)
            linking.sweep(using)
            token, tried = dead_letters.take_due(using)
            if tried:
                outcomes = applier.apply([change for _, change in tried], dead_letters.Keeper())
                dead_letters.settle(using, token, tried, outcomes)
                failed += sum(outcome is Outcome.FAILED for outcome in outcomes)
                applied += sum(outcome is not Outcome.FAILED for outcome in outcomes)
            due = dead_letters.next_due_in(using)
            if due is not None:
                soonest = due if soonest is None else min(due, soonest)
        return Answer(retry_in=soonest, applied=applied, failed=failed)
    except applier.INFRASTRUCTURE as error:
        return _again(error)
    except Exception as error:
        return Answer(again=_say_broken(error))
    finally:
        _tidy_connections()


def _again(error: BaseException) -> Answer:
    logger.warning(
        "The database cannot take changes now (%s); the batch is tried again.", type(error).__name__,
        extra={"action": "cqrs_infrastructure"},
    )  # fmt: skip
    return Answer(again=f"{type(error).__name__}: {error}")


def _say_broken(error: Exception) -> str:
    # Not exc_info: the text of an error may hold values.
    logger.error(
        "An error that is neither the database's nor a change's: %s\n%s", type(error).__name__,
        "".join(traceback.format_tb(error.__traceback__)), extra={"action": "cqrs_unexpected"},
    )  # fmt: skip
    return type(error).__name__


class _Reading:
    """What the messages of a batch hold: changes, and what could not be read."""

    def __init__(self) -> None:
        self.changes: list[TransportPayload] = []
        self.unreadable: list[tuple[Any, DecodeError]] = []
        #: Whether a django-cqrs master has sent some of it, and which of the changes are its deletes, by ``id()``.
        self.has_foreign = False
        self.foreign_deletes: set[int] = set()

    def read_message(self, body: bytes | str) -> None:
        try:
            if bridge.is_foreign(body):
                self._read_foreign(body)
            else:
                self.read_changes(decode_message(body))
        except DecodeError as error:
            self.unreadable.append((body, error))

    def _read_foreign(self, body: bytes | str) -> None:
        change = bridge.read_body(body)
        self.has_foreign = True
        self.changes.append(change)
        if change.signal_type is SignalType.DELETE:
            self.foreign_deletes.add(id(change))

    def read_changes(self, data: Sequence[Any]) -> None:
        for item in data:
            try:
                self.changes.append(TransportPayload.from_dict(item))
            except DecodeError as error:
                self.unreadable.append((item, error))

    def apply(self) -> Answer:
        keeper = dead_letters.Keeper()
        outcomes = self._apply(keeper)
        # Last: a batch that is tried again finds its changes applied already, but would keep these twice.
        for raw, error in self.unreadable:
            dead_letters.keep_unreadable(raw, error)
        failed = sum(outcome is Outcome.FAILED for outcome in outcomes)
        return Answer(retry_in=keeper.soonest, applied=len(outcomes) - failed, failed=failed + len(self.unreadable))


    def _apply(self, keeper: dead_letters.Keeper) -> list[Outcome]:
        if not self.has_foreign and not (self.changes and recreations.are_possible()):
            return applier.apply(self.changes, keeper)
        outcomes: list[Outcome] = []
        for part in recreations.rounds(self.changes):
            recreations.make_way(part)
            outcomes += applier.apply(part, keeper)
            recreations.remember(change for change in part if id(change) in self.foreign_deletes)
        return outcomes


def _tidy_connections() -> None:
    """Drop connections that are broken or past CONN_MAX_AGE.

    An age of 0 means "after each request"; here it would mean a new connection for each batch, so those stay open.
    """
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            continue
        if connection.settings_dict["CONN_MAX_AGE"] == 0:
            connection.close_at = None
        connection.close_if_unusable_or_obsolete()


def dead_letter_alias() -> str:
    """Database alias of dead letters that belong to no model."""
    return router.db_for_write(DeadLetter)
