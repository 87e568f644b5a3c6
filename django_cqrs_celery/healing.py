"""Healing on a replica: compare its rows with what the master says of its own, and tell the master what differs.

Nothing is written here. What differs is repaired by changes, which come as all changes come.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.db import models, router

from django_cqrs_celery import conf, contents, digests
from django_cqrs_celery.constants import DeadLetterStatus
from django_cqrs_celery.exceptions import CQRSError, DecodeError
from django_cqrs_celery.models import DeadLetter, Tombstone
from django_cqrs_celery.registries import ReplicaRegistry

logger = logging.getLogger("django_cqrs_celery.healing")

#: Version of the notes between master and replica that this release writes.
VERSION = 1
#: Most rows that one note names.
ROWS_PER_NOTE = 5_000


def answers_to(note: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The notes with which a replica answers a digest or a listing of rows; none for a model that it does not have."""
    cqrs_id, model = note.get("cqrs_id"), ReplicaRegistry.models.get(note.get("cqrs_id") or "")
    if model is None or not isinstance(note.get("round"), str):
        logger.error(
            "A digest of %s cannot be answered: this service has no such replica.", str(cqrs_id)[:100],
            extra={"action": "cqrs_digest_unknown"},
        )  # fmt: skip
        return []
    head = {"version": VERSION, "cqrs_id": cqrs_id, "queue": conf.queue(), "round": note["round"]}
    reason = why_not(model)
    if reason:
        return [{**head, "kind": "unable", "reason": reason}]
    try:
        if note.get("kind") == "digest":
            return [{**head, **_compare(model, note)}]
        if note.get("kind") == "rows":
            return [{**head, **part} for part in _compare_rows(model, note)]
        raise DecodeError(f"This release does not know the note {str(note.get('kind'))[:40]!r} of a master.")
    except CQRSError as error:
        logger.error("A digest of %s cannot be compared: %s", cqrs_id, error, extra={"action": "cqrs_digest_refused"})
        return [{**head, "kind": "unable", "reason": str(error)}]


def why_not(model: Any) -> str | None:
    """Why the rows of a replica model cannot be compared, or None."""
    if not issubclass(model, models.Model) or model.CQRS_NO_DB_OPERATIONS:
        return "The replica keeps no table of its own."
    if model.CQRS_ONLY_DIRECT_SYNCS:
        return "The replica takes direct syncs only, so it need not have every row."
    return None


def _compare(model: Any, note: Mapping[str, Any]) -> dict[str, Any]:
    using = router.db_for_write(model)
    scheme = digests.Scheme.from_dict(note.get("scheme"))
    theirs = digests.Digest.from_dict(note, scheme.buckets)
    content = contents.of_replica(model, note["content"]) if note.get("content") else None
    scan = digests.Scan(model, using, scheme, content=content)
    ours = scan.run()
    differing = set(ours.differing(theirs))
    if content is not None and scan.sums is not None:
        differing |= scan.sums.differing(contents.Sums.from_dict(note.get("values"), content, scheme.buckets))
    if not differing:
        return {"kind": "equal", "rows": scan.seen}
    excess = sum(max(0, ours.counts[i] - theirs.counts[i]) for i in differing)
    return {
        "kind": "buckets", "rows": scan.seen, "scheme": scheme.to_dict(), "buckets": sorted(differing),
        "excess": excess, "content": None if content is None else sorted(content.kinds),
    }  # fmt: skip


def _compare_rows(model: Any, note: Mapping[str, Any]) -> list[dict[str, Any]]:
    using = router.db_for_write(model)
    scheme = digests.Scheme.from_dict(note.get("scheme"))
    buckets, listed = _buckets(note, scheme), _listed(note)
    content = contents.of_replica(model, note["content"]) if note.get("content") else None
    own = digests.rows_of(model, using, scheme, buckets, content=content)
    missing = [text for text in listed if text not in own]
    cqrs_id = model.CQRS_ID
    tombstones = _tombstones(cqrs_id, missing, using)
    wanted, ahead = [], []
    for text, (wire, revision, values) in listed.items():
        row = own.get(text)
        known = tombstones.get(text, -1) if row is None else row.revision
        if row is None and known >= revision:
            ahead.append([wire, known, True])
        elif row is None or known < revision:
            wanted.append([wire, text])
        elif known > revision and row.counts:
            ahead.append([wire, known, False])
        elif known == revision and content is not None and row.counts and row.content != values:
            wanted.append([wire, text])
    waiting = _waiting(cqrs_id, [text for _, text in wanted], using)
    wanted = [[wire, text] for wire, text in wanted if waiting.get(text, -1) < listed[text][1]]
    extra = [[text, row.revision] for text, row in own.items() if text not in listed and row.counts]
    return _notes([wire for wire, _ in wanted], extra, ahead, note.get("compared"))


def _notes(wanted: list[Any], extra: list[Any], ahead: list[Any], compared: Any) -> list[dict[str, Any]]:
    """The answer in pieces of a bearable size; ``compared`` is what the master has said of its round."""
    longest = max(len(wanted), len(extra), len(ahead))
    return [
        {
            "kind": "rows", "wanted": wanted[i : i + ROWS_PER_NOTE], "extra": extra[i : i + ROWS_PER_NOTE],
            "ahead": ahead[i : i + ROWS_PER_NOTE], "last": i + ROWS_PER_NOTE >= longest, "compared": compared,
        }  # fmt: skip
        for i in range(0, max(1, longest), ROWS_PER_NOTE)
    ]


def _buckets(note: Mapping[str, Any], scheme: digests.Scheme) -> list[int]:
    buckets = note.get("buckets")
    if not isinstance(buckets, list) or any(type(i) is not int or not 0 <= i < scheme.buckets for i in buckets):
        raise DecodeError("A note names buckets that its scheme does not have.")
    return buckets


def _listed(note: Mapping[str, Any]) -> dict[str, tuple[Any, int, Any]]:
    """Wire key, revision and hash of values of the listed rows by key text."""
    listed: dict[str, tuple[Any, int, Any]] = {}
    rows = note.get("rows")
    for row in rows if isinstance(rows, list) else [None]:
        if not isinstance(row, list) or len(row) < 2 or not isinstance(row[0], (int, str)) or type(row[1]) is not int:
            raise DecodeError("A listing has a row that is no list of key and revision.")
        listed[str(row[0])] = (row[0], row[1], row[2] if len(row) > 2 else None)
    return listed


def _tombstones(cqrs_id: str, texts: list[str], using: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(texts), 1000):
        found.update(Tombstone.objects.using(using).revisions(cqrs_id, texts[start : start + 1000]))
    return found


def _waiting(cqrs_id: str, texts: list[str], using: str) -> dict[str, int]:
    """Revisions that are set aside and will be tried again: sending those once more helps nothing."""
    found: dict[str, int] = {}
    alive = (DeadLetterStatus.PENDING.value, DeadLetterStatus.WAITING.value)
    letters = DeadLetter.objects.using(using)
    if texts and letters.any_open():
        for start in range(0, len(texts), 1000):
            rows = letters.of_row(cqrs_id, texts[start : start + 1000]).filter(status__in=alive)
            for text, revision in rows.values_list("instance_pk", "revision"):
                found[text] = max(revision or 0, found.get(text, 0))
    return found
