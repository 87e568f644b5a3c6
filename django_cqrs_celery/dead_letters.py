"""Dead letters: keep what could not be applied, decide when it is tried again, close what has become obsolete."""

from __future__ import annotations

import logging
import re
import traceback as tracebacks
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db import models, router, transaction
from django.db.models.functions import Now
from django.utils import timezone

from django_cqrs_celery import retries, serialization
from django_cqrs_celery.constants import (
    CQRS_ID_MAX_LENGTH,
    PK_MAX_LENGTH,
    REVISION_FIELD,
    DeadLetterStatus,
    Outcome,
)
from django_cqrs_celery.dataclasses import TransportPayload, decode_message, dumps_received, loads
from django_cqrs_celery.exceptions import DecodeError, ExpiredChange, MissingParent, UnknownCQRSId
from django_cqrs_celery.mixins import RawReplicaMixin
from django_cqrs_celery.models import DeadLetter, PendingLink, Tombstone
from django_cqrs_celery.querysets import DeadLetterQuerySet, new_token
from django_cqrs_celery.registries import ReplicaRegistry

logger = logging.getLogger("django_cqrs_celery.dead_letters")

#: Most letters that one retry takes in hand, and for how long it may hold them.
BATCH = 500
LEASE_SECONDS = 120
#: Seconds after which one looks whether a parent has come unnoticed: it may have landed in a transaction that did not
#: see the letter of its child, which was not committed yet.
LOOK_AGAIN_SECONDS = 0.5
#: The same, for letters that have waited longer.
LOOK_SECONDS = 5.0


class Keeper:
    """Where the applier puts changes aside; remembers the soonest retry that it has promised."""

    def __init__(self) -> None:
        self.kept = 0
        self.soonest: float | None = None

    def set_aside(self, change: TransportPayload, error: BaseException, using: str) -> None:
        """Write the letter of a change that failed, in the open transaction; one open letter for each row."""
        if not isinstance(error, ExpiredChange):
            change = replace(change, expires=None)  # it has come in time: waiting here may not make it too old
        waiting = isinstance(error, MissingParent) and error.cqrs_id is not None
        decision = retries.GiveUp() if waiting else _decide(change, error)
        letters = DeadLetter.objects.using(using)
        key = _storable(serialization.pk_text(change.instance_pk))[:PK_MAX_LENGTH]
        cqrs_id = _storable(change.cqrs_id)[:CQRS_ID_MAX_LENGTH]
        mine = letters.of_row(cqrs_id, [key]).open()
        mine.filter(revision__lt=change.revision).close(DeadLetterStatus.SUPERSEDED)
        values = _describe(error)
        values.update(
            payload=dumps_received(change.to_dict()), signal_type=change.signal_type.value, retries=change.retries,
            correlation_id=_storable(change.correlation_id or "")[:255] or None,
            lease_token=None, leased_until=None, updated_at=Now(),
            waiting_cqrs_id=error.cqrs_id if waiting else None,  # type: ignore[attr-defined]
            waiting_pk=error.pk if waiting else None,  # type: ignore[attr-defined]
        )  # fmt: skip
        delay = decision.delay if isinstance(decision, retries.Retry) else None
        if waiting:
            values.update(status=DeadLetterStatus.WAITING.value, next_retry_at=None)
            self.look_again()
        elif delay is not None:
            values.update(status=DeadLetterStatus.PENDING.value, next_retry_at=Now() + timedelta(seconds=delay))
            self.soonest = delay if self.soonest is None else min(delay, self.soonest)
        else:
            values.update(status=DeadLetterStatus.DEAD.value, next_retry_at=None)
        same = mine.filter(revision=change.revision, signal_type=change.signal_type.value)
        if not same.update(**values):
            letters.create(cqrs_id=cqrs_id, instance_pk=key, revision=change.revision, **values)
        self.kept += 1
        log = {DeadLetterStatus.DEAD.value: logger.error, DeadLetterStatus.WAITING.value: logger.info}.get(
            values["status"], logger.warning
        )  # fmt: skip
        log(
            "%s %s revision %s was set aside (%s): %s.",
            change.cqrs_id, key, change.revision, values["status"], values["error_class"],
            extra={"action": "cqrs_set_aside", "status": values["status"]},
        )  # fmt: skip

    def look_again(self) -> None:
        """Something waits for a row that may be landing at this moment, unseen: have it looked at soon."""
        self.soonest = LOOK_AGAIN_SECONDS if self.soonest is None else min(LOOK_AGAIN_SECONDS, self.soonest)

    def open_change(self, cqrs_id: str, pk: str, using: str) -> TransportPayload | None:
        """The newest change of a row that was set aside and is not closed."""
        letter = DeadLetter.objects.using(using).of_row(cqrs_id, [pk]).open().order_by("revision").last()
        return None if letter is None else _change_of(letter)

    def landed(self, cqrs_id: str, revisions: dict[str, int], using: str) -> list[TransportPayload]:
        """Close letters that the rows' new revisions make obsolete; return the changes that waited for these rows."""
        letters = DeadLetter.objects.using(using)
        if not letters.any_open():
            return []
        obsolete: dict[DeadLetterStatus, list[int]] = {DeadLetterStatus.RESOLVED: [], DeadLetterStatus.SUPERSEDED: []}
        rows = letters.of_row(cqrs_id, revisions).open().values_list("pk", "instance_pk", "revision")
        for pk, row_pk, revision in rows:
            # A collation may have found the letters of another spelling of the key.
            landed = revisions.get(row_pk)
            if revision is not None and landed is not None and revision <= landed:
                same = revision == landed
                obsolete[DeadLetterStatus.RESOLVED if same else DeadLetterStatus.SUPERSEDED].append(pk)
        for status, pks in obsolete.items():
            if pks:
                letters.filter(pk__in=pks).close(status)
        return [_change_of(letter) for letter in letters.waiting_for(cqrs_id, revisions).order_by("pk")]


def _decide(change: TransportPayload, error: BaseException) -> retries.Decision:
    if isinstance(error, ExpiredChange):
        return retries.GiveUp()
    model: Any = ReplicaRegistry.models.get(change.cqrs_id, RawReplicaMixin)
    try:
        wanted = bool(model.should_retry_cqrs(change.retries, error))
        return retries.decide(should_retry=wanted, delay=model.get_cqrs_retry_delay(change.retries) if wanted else 0)
    except Exception as hook_error:  # the project's hook: a failing one must not lose the change
        logger.error(
            "The retry hooks of %s raised %s; the change is marked dead.", change.cqrs_id, type(hook_error).__name__,
            extra={"action": "cqrs_retry_hook_failed"},
        )  # fmt: skip
        return retries.GiveUp()


def _describe(error: BaseException) -> dict[str, Any]:
    own = isinstance(error, (DecodeError, MissingParent, UnknownCQRSId, ExpiredChange))
    trace = "" if own else "".join(tracebacks.format_exception(type(error), error, error.__traceback__))
    return {
        "error_class": f"{type(error).__module__}.{type(error).__qualname__}"[:255],
        "error_message": _storable(str(error)),
        "traceback": _storable(trace),
    }


#: What a column of text cannot take on every engine: NUL, and halves of characters.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _storable(text: str) -> str:
    """The text with escapes in place of characters that PostgreSQL or UTF-8 cannot hold."""
    return _UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def keep_unreadable(raw: Any, error: BaseException, using: str | None = None) -> None:
    """Keep a message, or a part of one, that could not be read; what can be told of it is in the columns."""
    data = raw if isinstance(raw, dict) else {}
    if isinstance(raw, (bytes, bytearray, memoryview)):
        payload = bytes(raw).decode("utf-8", "backslashreplace")
    elif isinstance(raw, str):
        payload = raw
    else:
        payload = dumps_received(raw)
    revision = (data.get("instance_data") or {}) if isinstance(data.get("instance_data"), dict) else {}
    number = revision.get("cqrs_revision")
    DeadLetter.objects.using(using or router.db_for_write(DeadLetter)).create(
        status=DeadLetterStatus.DEAD.value, payload=_storable(payload),
        cqrs_id=_storable(str(data.get("cqrs_id") or ""))[:CQRS_ID_MAX_LENGTH],
        instance_pk=_storable(str(data.get("instance_pk") or ""))[:PK_MAX_LENGTH],
        signal_type=_storable(str(data.get("signal_type") or ""))[:10],
        revision=number if isinstance(number, int) and abs(number) < 2**63 else None, **_describe(error),
    )  # fmt: skip
    logger.error(
        "A message could not be read (%s); it is kept as a dead letter.", error, extra={"action": "cqrs_unreadable"}
    )


def _change_of(letter: DeadLetter) -> TransportPayload:
    return TransportPayload.from_dict(loads(letter.payload))


# --- retrying ------------------------------------------------------------------------------------------------------


def aliases() -> list[str]:
    """Database aliases where replica models, and so their dead letters, live."""
    found = [router.db_for_write(DeadLetter)]
    for model in ReplicaRegistry.models.values():
        if not issubclass(model, models.Model):
            continue  # a class without a table: its letters are where the project keeps those of none
        alias = router.db_for_write(model)
        if alias not in found and router.allow_migrate_model(alias, DeadLetter):
            found.append(alias)
    return found


def take_due(using: str) -> tuple[str, list[tuple[DeadLetter, TransportPayload]]]:
    """Lease the letters whose time has come, each with the change to be applied once more."""
    token = new_token()
    letters = DeadLetter.objects.using(using).due().take(token=token, seconds=LEASE_SECONDS, limit=BATCH)
    changes = []
    for letter in letters:
        try:
            changes.append((letter, _change_of(letter).retried()))
        except DecodeError as error:
            DeadLetter.objects.using(using).filter(pk=letter.pk).update(
                status=DeadLetterStatus.DEAD.value, lease_token=None, leased_until=None, **_describe(error)
            )
    return token, changes


def settle(
    using: str, token: str, tried: Sequence[tuple[DeadLetter, TransportPayload]], outcomes: Sequence[Outcome]
) -> None:
    """Close the letters of a retry that are no longer needed; those that failed again have been rewritten already."""
    for (letter, _), outcome in zip(tried, outcomes, strict=True):
        held = DeadLetter.objects.using(using).held_by(token, [letter.pk])
        if outcome in (Outcome.STALE, Outcome.DUPLICATE):
            held.close(DeadLetterStatus.SUPERSEDED)
        elif outcome is not Outcome.FAILED:
            held.close(DeadLetterStatus.RESOLVED)


def wake_waiting(using: str) -> int:
    """Make due what nothing else would wake: letters whose parent is here, or whose row has moved on; returns how many.

    Whoever brought the parent or the newer state did not see the letter, which was not committed yet.
    """
    woken, last = 0, 0
    waiting = DeadLetter.objects.using(using).waiting().order_by("pk")
    while chunk := list(waiting.filter(pk__gt=last).defer("payload", "traceback")[:BATCH]):
        last = chunk[-1].pk
        parents: dict[str, set[str]] = {}
        for letter in chunk:
            parents.setdefault(letter.waiting_cqrs_id or "", set()).add(letter.waiting_pk or "")
            parents.setdefault(letter.cqrs_id, set()).add(letter.instance_pk)
        known = {cqrs_id: _known_revisions(cqrs_id, pks, using) for cqrs_id, pks in parents.items()}
        ready = [
            letter.pk
            for letter in chunk
            if letter.waiting_pk in known[letter.waiting_cqrs_id or ""][0]
            or any(found.get(letter.instance_pk, -1) >= (letter.revision or 0) for found in known[letter.cqrs_id])
        ]
        woken += waiting.order_by().filter(pk__in=ready).update(
            status=DeadLetterStatus.PENDING.value, next_retry_at=Now()
        )
    return woken


def _known_revisions(cqrs_id: str, pks: set[str], using: str) -> tuple[dict[str, int], dict[str, int]]:
    """Revisions of the rows that are here, and of those that were deleted, by primary key text."""
    model: Any = ReplicaRegistry.models.get(cqrs_id)
    if model is None or model.CQRS_NO_DB_OPERATIONS:
        return {}, {}
    texts = {serialization.decode(model._meta.pk, text): text for text in pks}
    rows = model._base_manager.using(using).filter(pk__in=list(texts)).values_list("pk", REVISION_FIELD)
    return {texts[pk]: revision for pk, revision in rows}, Tombstone.objects.using(using).revisions(cqrs_id, pks)


def ask_again(letters: DeadLetterQuerySet) -> int:
    """Make open letters due now because a person wants it: retries count anew, and the changes no longer expire.

    Returns how many; letters that a worker holds, and those that hold no change that can be read, stay as they are.
    """
    asked, last = 0, 0
    newest = letters.order_by("-pk").values_list("pk", flat=True).first() or 0
    free = letters.open().free().filter(pk__lte=newest).order_by("pk")  # not those that unpacking adds
    while chunk := list(free.filter(pk__gt=last).only("pk", "payload")[:BATCH]):
        last = chunk[-1].pk
        with transaction.atomic(using=letters.db):
            for letter in chunk:
                try:
                    change = replace(_change_of(letter), retries=0, expires=None)
                except DecodeError:
                    asked += _unpack(letter, letters)
                    continue
                asked += free.filter(pk=letter.pk).update(
                    status=DeadLetterStatus.PENDING.value, next_retry_at=Now(), retries=0, updated_at=Now(),
                    payload=dumps_received(change.to_dict()), waiting_cqrs_id=None, waiting_pk=None, lease_token=None,
                    leased_until=None,
                )  # fmt: skip
    return asked


def _unpack(letter: DeadLetter, letters: DeadLetterQuerySet) -> int:
    """Make letters of the changes in a whole message that can be read by now, of a newer format perhaps.

    They are due now, and the message's letter is closed; returns how many, 0 where the message stays what it is.
    """
    try:
        changes = [TransportPayload.from_dict(data) for data in decode_message(letter.payload)]
    except DecodeError:
        return 0
    every = DeadLetter.objects.using(letters.db)
    for change in changes:
        every.create(
            cqrs_id=_storable(change.cqrs_id)[:CQRS_ID_MAX_LENGTH], signal_type=change.signal_type.value,
            instance_pk=_storable(serialization.pk_text(change.instance_pk))[:PK_MAX_LENGTH], revision=change.revision,
            payload=dumps_received(replace(change, retries=0, expires=None).to_dict()), next_retry_at=Now(),
            error_class=letter.error_class, error_message=letter.error_message,
        )  # fmt: skip
    every.filter(pk=letter.pk).close(DeadLetterStatus.RESOLVED)
    return len(changes)


def next_due_in(using: str) -> float | None:
    """Seconds until the letters are worth a look: one is due, 0 for overdue, or waits; None where there is none."""
    pending = DeadLetter.objects.using(using).filter(status=DeadLetterStatus.PENDING.value)
    first = pending.order_by("next_retry_at").values_list("next_retry_at", flat=True).first()
    until = [] if first is None else [max(0.0, (first - timezone.now()).total_seconds())]
    if DeadLetter.objects.using(using).waiting().exists() or PendingLink.objects.using(using).exists():
        until.append(LOOK_SECONDS)
    return min(until, default=None)
