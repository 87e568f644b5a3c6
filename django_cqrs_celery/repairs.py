"""Repairs on the master: what it does with a replica's answer to a digest.

A row that a replica lacks, or has older, is read anew and sent as it is now. A row that the master does not have is
deleted there by a delete of its own, above every revision that the row has had, and only once it is sure that nobody
is creating the row meanwhile. A row that is ahead of the master is reported; where a person says that the master's
state wins, its revision is raised above the replica's, so that every replica takes it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import router
from django.db.models import F
from django.db.models.functions import Now

from django_cqrs_celery import burials, conf, contents, digests, images, outbox, serialization, sync, triggers
from django_cqrs_celery.constants import PK_MAX_LENGTH, REVISION_FIELD, SyncMode
from django_cqrs_celery.dataclasses import MAX_REVISION
from django_cqrs_celery.exceptions import DecodeError
from django_cqrs_celery.models import SyncState
from django_cqrs_celery.registries import MasterRegistry

logger = logging.getLogger("django_cqrs_celery.repairs")

#: Version of the notes between master and replica that this release writes.
VERSION = 1
#: Rows that one listing names at the most, unless a single bucket has more.
ROWS_PER_LISTING = 10_000

#: Counts of a replica's state at the beginning of a round.
NOTHING_YET = dict.fromkeys(
    ("rows_compared", "rows_repaired", "rows_deleted", "rows_ahead", "rows_held_back", "listings"), 0
)

#: What a replica may answer.
ANSWERS = ("equal", "unable", "buckets", "rows")

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a round was asked for. ``force``: the master's state wins, also over newer rows of a replica."""

    content: bool | list[str] = False
    force: bool = False
    max_deletes: float | None = None

    def to_json(self) -> str:
        """As the state of the round keeps it."""
        return json.dumps({"content": self.content, "force": self.force, "max_deletes": self.max_deletes})

    @property
    def share(self) -> float:
        """Largest share of a replica's rows that may be deleted."""
        if self.max_deletes is not None:
            return self.max_deletes
        return 1.0 if self.force else conf.max_delete_share()


class Repair:
    """One answer of one replica. ``send`` takes notes for it, ``publish`` messages of changes."""

    def __init__(self, note: Mapping[str, Any], send: Send, publish: Callable[[outbox.Message], None]) -> None:
        self.note, self.send, self.publish = note, send, publish
        self.model: Any = MasterRegistry.get_model_by_cqrs_id(_text(note, "cqrs_id"))
        self.queue, self.round = _text(note, "queue"), _text(note, "round")
        self.using = router.db_for_write(self.model)
        self.keep = burials.filter_of(self.model)
        self.options = self._options()
        self.states = SyncState.objects.using(self.using)
        self.state = self._state()
        #: Keys among those reported as ahead that the replica remembers as deleted.
        self._buried: set[str] = set()

    def _options(self) -> Options:
        """The options of the answer's round; of an older round, whose state is gone, the careful ones."""
        rounds = SyncState.objects.using(self.using).filter(cqrs_id=self.model.CQRS_ID, mode=SyncMode.DIGEST.value)
        text = rounds.filter(round=self.round, options__isnull=False).values_list("options", flat=True).first()
        return Options(**json.loads(text)) if text else Options()

    def _state(self) -> SyncState:
        state = self.states.of(self.model.CQRS_ID, self.queue, SyncMode.DIGEST)
        if state.round != self.round and self._is_newest():
            # ``options`` would be those of a round that was for this replica alone.
            beginning = {"started_at": Now(), "finished_at": None, "message": None, "options": None, **NOTHING_YET}
            self.states.filter(pk=state.pk).update(round=self.round, **beginning)
            state.refresh_from_db(using=self.using)
        return state

    def _is_newest(self) -> bool:
        """Whether no later round of all replicas has begun: a late answer is acted upon, but does not begin anew."""
        whole = self.states.filter(cqrs_id=self.model.CQRS_ID, queue="", mode=SyncMode.DIGEST.value)
        newest = whole.exclude(round="").values_list("round", flat=True).first()
        return newest is None or newest == self.round

    def _note_down(self, **values: Any) -> None:
        SyncState.objects.using(self.using).filter(pk=self.state.pk).update(updated_at=Now(), **values)
        self.state.refresh_from_db(using=self.using)

    # -- answers -----------------------------------------------------------------------------------------------------

    def equal(self) -> None:
        """The replica has found every bucket equal."""
        self._note_down(
            verified_at=Now(), finished_at=Now(), rows_compared=_count(self.note, "rows"), guarded=False, message=None
        )

    def unable(self) -> None:
        """The replica cannot compare."""
        reason = str(self.note.get("reason"))[:1000]
        self._note_down(finished_at=Now(), message=reason)
        logger.warning(
            "%s cannot be compared with replica %s: %s", self.model.CQRS_ID, self.queue, reason,
            extra={"action": "cqrs_digest_unable"},
        )  # fmt: skip

    def buckets(self) -> None:
        """Some buckets differ: list their rows."""
        scheme = digests.Scheme.from_dict(self.note.get("scheme"))
        buckets = self.note.get("buckets")
        if not isinstance(buckets, list) or any(type(i) is not int or not 0 <= i < scheme.buckets for i in buckets):
            raise DecodeError("An answer names buckets that its scheme does not have.")
        rows, excess = _count(self.note, "rows"), _count(self.note, "excess")
        portions = list(_portions(sorted(set(buckets)), max(1, rows // scheme.buckets)))
        self._note_down(rows_compared=rows, guarded=False, listings=len(portions))
        if excess > self.options.share * rows:
            self._hold_back(excess)
        content = None
        if self.note.get("content"):
            content = contents.of_master(self.model, True)
            content = content.only(list(map(str, self.note["content"]))) if content else None
        for part in portions:
            self.send(self._listing(scheme, part, content))

    def _listing(self, scheme: digests.Scheme, buckets: list[int], content: contents.Content | None) -> dict[str, Any]:
        found = digests.rows_of(self.model, self.using, scheme, buckets, keep=self.keep, content=content)
        listed = []
        for text, row in found.items():
            if row.counts:
                wire = images.wire_pk(self.model, images.python_pk(self.model, text))
                listed.append([wire, row.revision, row.content] if content else [wire, row.revision])
        return {
            "version": VERSION, "kind": "rows", "cqrs_id": self.model.CQRS_ID, "round": self.round,
            "scheme": scheme.to_dict(), "buckets": buckets, "rows": listed, "compared": self.state.rows_compared,
            "content": dict(content.kinds) if content else None,
        }  # fmt: skip

    def rows(self) -> None:
        """The rows that the replica lacks, has older, has newer, or has and the master does not."""
        wanted = self._keys(self.note.get("wanted"))
        extra = self._revisions(self.note.get("extra"))
        ahead = self._revisions(self.note.get("ahead"))
        repaired = self._send_again(wanted)
        repaired += self._ahead(ahead)
        deleted = self._delete(extra)
        self._note_down(
            rows_repaired=F("rows_repaired") + repaired + deleted, rows_deleted=F("rows_deleted") + deleted,
            listings=F("listings") - (1 if self.note.get("last") else 0), finished_at=Now(),
        )  # fmt: skip
        state = self.state
        if state.listings == 0 and not (state.rows_repaired or state.rows_ahead or state.rows_held_back):
            # What differed had changed between the digest and the comparison.
            self._note_down(verified_at=Now(), guarded=False, message=None)
        if repaired or deleted:
            logger.info(
                "%s of replica %s: %s rows sent again, %s deleted.", self.model.CQRS_ID, self.queue, repaired, deleted,
                extra={"action": "cqrs_repaired"},
            )  # fmt: skip

    def _send_again(self, keys: list[Any]) -> int:
        sent = 0
        for start in range(0, len(keys), 1000):
            rows = self.model._base_manager.using(self.using).filter(pk__in=keys[start : start + 1000])
            sent += sync.resend(rows, self.publish, queue=self.queue).rows
        return sent

    # -- ahead -------------------------------------------------------------------------------------------------------

    def _ahead(self, reported: dict[str, int]) -> int:
        """Rows whose revision here is below the replica's even now: the master was put back to an older state."""
        behind: dict[Any, int] = {}
        for start in range(0, len(reported), 1000):
            part = dict(list(reported.items())[start : start + 1000])
            keys = {self._key(text): revision for text, revision in part.items()}
            rows = self.model._base_manager.using(self.using).filter(pk__in=list(keys))
            for pk, revision in rows.values_list("pk", REVISION_FIELD):
                known = reported.get(digests.wire_text(self.model, pk), -1)
                if revision < known or (revision == known and self._is_tombstone(pk)):
                    behind[pk] = known
        if not behind:
            return 0
        if not self.options.force:
            self._note_down(
                rows_ahead=F("rows_ahead") + len(behind),
                message="The replica has rows of newer revisions than the master, as after the master's restore from a"
                " backup. cqrs_sync --mode digest --content --force makes the master's state win.",
            )
            logger.error(
                "%s rows of %s are ahead of the master on replica %s: was the master restored from a backup?"
                " cqrs_sync --mode digest --content --force makes the master's state win.",
                len(behind), self.model.CQRS_ID, self.queue, extra={"action": "cqrs_ahead"},
            )  # fmt: skip
            return 0
        for pk, revision in behind.items():
            rows = self.model._base_manager.using(self.using).filter(pk=pk)
            rows.filter(**{f"{REVISION_FIELD}__lte": revision}).update(
                **{REVISION_FIELD: triggers.written(self.model, self.using, revision + 1)}
            )
        # To all replicas: what has become the highest revision here must be so everywhere.
        rows = self.model._base_manager.using(self.using)
        keys_ahead = list(behind)
        return sum(
            sync.resend(rows.filter(pk__in=keys_ahead[i : i + 1000]), self.publish).rows
            for i in range(0, len(keys_ahead), 1000)
        )

    def _is_tombstone(self, pk: Any) -> bool:
        return digests.wire_text(self.model, pk) in self._buried

    # -- deletes -----------------------------------------------------------------------------------------------------

    def _delete(self, extra: dict[str, int]) -> int:
        if not extra:
            return 0
        present, absent = self._sort_out(extra)
        # Present rows have changed since they were listed, or their change is still on its way.
        self._send_again(list(present))
        if not absent:
            return 0
        if self.state.guarded or self._is_held_back(len(absent)):
            self._note_down(rows_held_back=F("rows_held_back") + len(absent))
            return 0
        burial = burials.Burial(self.model, self.using, self.queue)
        deleted = burial.bury(absent)
        self._send_again(burial.created)
        return deleted

    def _sort_out(self, extra: dict[str, int]) -> tuple[set[Any], dict[str, int]]:
        """Of rows that the master's listing lacks: keys of those that it has, revisions of those that it has not."""
        present, absent = set(), {}
        items = list(extra.items())
        for start in range(0, len(items), 1000):
            part = {self._key(text): (text, revision) for text, revision in items[start : start + 1000]}
            rows = self.model._base_manager.using(self.using).filter(pk__in=list(part))
            if self.keep is None:
                found = set(rows.values_list("pk", flat=True))
            else:
                found = {instance.pk for instance in rows if self.keep(instance)}
            present |= found
            absent.update({text: revision for key, (text, revision) in part.items() if key not in found})
        return present, absent

    def _is_held_back(self, number: int) -> bool:
        # The replica says again what its round has compared: the state may be of a later round that knows less yet.
        known = self.note.get("compared")
        compared = max(self.state.rows_compared, known if type(known) is int else 0)
        allowed = self.options.share * max(compared, 1)
        if self.state.rows_deleted + number <= allowed:
            return False
        self._hold_back(self.state.rows_deleted + number)
        return True

    def _hold_back(self, number: int) -> None:
        self._note_down(
            guarded=True,
            message=f"Deleting {number} of {self.state.rows_compared} rows is more than"
            f" CQRS['master']['max_delete_share'] ({self.options.share}) allows: held back. Look into it, and"
            " let cqrs_sync --mode digest --max-deletes 1 do it if it is right.",
        )
        logger.error(
            "A repair would delete %s of %s rows of %s on replica %s; it is held back.",
            number, self.state.rows_compared, self.model.CQRS_ID, self.queue, extra={"action": "cqrs_held_back"},
        )  # fmt: skip

    # -- reading answers ---------------------------------------------------------------------------------------------

    def _key(self, text: Any) -> Any:
        if not isinstance(text, (str, int)) or isinstance(text, bool) or len(str(text)) > PK_MAX_LENGTH:
            raise DecodeError("An answer has a primary key that is neither a number nor a text.")
        return images.python_pk(self.model, serialization.pk_text(text))

    def _keys(self, keys: Any) -> list[Any]:
        if not isinstance(keys, list):
            raise DecodeError("An answer has no list of rows.")
        return [self._key(key) for key in keys]

    def _revisions(self, rows: Any) -> dict[str, int]:
        """Revision by primary key text; notes which of them are those of deletes."""
        found: dict[str, int] = {}
        for row in rows if isinstance(rows, list) else [None]:
            if not isinstance(row, list) or len(row) < 2 or type(row[1]) is not int or not 0 <= row[1] < MAX_REVISION:
                raise DecodeError("An answer has a row that is no list of key and revision.")
            self._key(row[0])
            found[str(row[0])] = row[1]
            if len(row) > 2 and row[2] is True:
                self._buried.add(str(row[0]))
        return found


def _text(note: Mapping[str, Any], name: str) -> str:
    value = note.get(name)
    if not isinstance(value, str) or not value or len(value) > 255:
        raise DecodeError(f"An answer of a replica has no usable {name}.")
    return value


def _count(note: Mapping[str, Any], name: str) -> int:
    value = note.get(name)
    if type(value) is not int or value < 0:
        raise DecodeError(f"An answer of a replica has no usable {name}.")
    return value


def _portions(buckets: list[int], rows_each: int) -> Iterator[list[int]]:
    size = max(1, ROWS_PER_LISTING // rows_each)
    for start in range(0, len(buckets), size):
        yield buckets[start : start + size]


def take(note: Mapping[str, Any], send: Send, publish: Callable[[outbox.Message], None]) -> None:
    """Act on an answer of a replica. Raises ``CQRSError`` for one that cannot be understood."""
    kind = note.get("kind")
    if kind not in ANSWERS:
        raise DecodeError(f"A replica has sent {str(kind)[:40]!r}; it may send {', '.join(ANSWERS)}.")
    getattr(Repair(note, send, publish), str(kind))()
