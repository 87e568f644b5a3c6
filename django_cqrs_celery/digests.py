"""Digests: how master and replica compare a table of any size by a few kilobytes.

Rows fall into buckets by their primary key. A digest has, for each bucket, the number of its rows and the sum of a hash
of (primary key, revision); sums do not depend on the order in which a database sorts. Every engine computes the same
from the primary key's wire text, so that different engines, collations and key types of the two sides do not matter.
``digest_sql`` lets the database compute where it can; here is what a bucket and a hash are, and the way in Python.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Max, Min, Q

from django_cqrs_celery import contents, digest_sql, images, serialization
from django_cqrs_celery.constants import REVISION_FIELD, UPDATED_FIELD
from django_cqrs_celery.exceptions import DecodeError

#: Name of the way to compute; a replica that does not know it says so.
ALGORITHM = "md5-60"
#: Rows that one bucket is to have, and the most buckets of a digest.
BUCKET_ROWS = 500
MAX_BUCKETS = 4096
#: Rows that one statement goes through, and rows that are read at once where Python has to compute.
CHUNK = 10_000
CHUNK_BY_HAND = 2_000
#: How much longer a digest rests than it works where no rate is given, and the longest rest after a chunk, in seconds.
RESTS, LONGEST_REST = 3.0, 0.5
#: Rows that have changed less than this ago may still be on their way, and are left for the next round.
SETTLE_SECONDS = 5.0
#: A row that claims to have changed later than this from now is no such row.
_FUTURE = timedelta(minutes=15)
_DIGITS, _MODULUS = 15, 16**15


# --- buckets and hashes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Into which bucket a row falls, and which rows count.

    ``start``, ``width``: ranges of whole numbers, the first and the last of them without end; ``width`` 0: buckets by
    a hash of the key's text. Rows changed from ``since`` on and before ``until`` are left out.
    """

    buckets: int
    start: int = 0
    width: int = 0
    since: datetime | None = None
    until: datetime | None = None

    def bucket(self, text: str) -> int:
        """Bucket of a row by its primary key text. Raises ``DecodeError`` for a text that is no number in a range."""
        if not self.width:
            return int(_md5(text)[:8], 16) % self.buckets
        try:
            return min(max((int(text) - self.start) // self.width, 0), self.buckets - 1)
        except ValueError:
            raise DecodeError("A primary key here is no whole number, as those of the digest are.") from None

    def to_dict(self) -> dict[str, Any]:
        """As it travels."""
        return {
            "algorithm": ALGORITHM, "buckets": self.buckets, "start": self.start, "width": self.width,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Any) -> Scheme:
        """Read what came. Raises ``DecodeError``."""
        if not isinstance(data, Mapping):
            raise DecodeError("A digest has no scheme.", data)
        if data.get("algorithm") != ALGORITHM:
            raise DecodeError(
                f"A digest is of the algorithm {str(data.get('algorithm'))[:40]!r}, this release knows {ALGORITHM!r}:"
                " upgrade the older of the two services.", data,
            )  # fmt: skip
        numbers: list[Any] = [data.get(name) for name in ("buckets", "start", "width")]
        if any(type(number) is not int for number in numbers) or not 0 < numbers[0] <= MAX_BUCKETS or numbers[2] < 0:
            raise DecodeError("A digest's scheme has no usable numbers.", data)
        try:
            since, until = (
                datetime.fromisoformat(data[name]) if data.get(name) else None for name in ("since", "until")
            )
        except (TypeError, ValueError):
            raise DecodeError("A digest's scheme has an unreadable time.", data) from None
        return cls(buckets=numbers[0], start=numbers[1], width=numbers[2], since=since, until=until)

    def counted(self) -> Q:
        """Condition of the rows that count."""
        if self.since is None or self.until is None:
            return Q()
        since, until = _local(self.since), _local(self.until)
        return ~Q(**{f"{UPDATED_FIELD}__gte": since, f"{UPDATED_FIELD}__lt": until})


def _local(moment: datetime) -> datetime:
    return moment if settings.USE_TZ else moment.astimezone().replace(tzinfo=None)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def row_hash(text: str, revision: int) -> int:
    """Hash of a row's primary key text and revision."""
    return int(_md5(f"{text}:{revision}")[:_DIGITS], 16)


@dataclass
class Digest:
    """Number of rows and sum of hashes by bucket."""

    counts: list[int]
    sums: list[int]

    @classmethod
    def empty(cls, buckets: int) -> Digest:
        """A digest of no rows."""
        return cls([0] * buckets, [0] * buckets)

    def add(self, bucket: int, count: int, value: int) -> None:
        """Count rows in."""
        self.counts[bucket] += count
        self.sums[bucket] = (self.sums[bucket] + value) % _MODULUS

    @property
    def rows(self) -> int:
        """Number of rows in all."""
        return sum(self.counts)

    def to_dict(self) -> dict[str, Any]:
        """As it travels: the sums as one text of fifteen hexadecimal digits each."""
        return {"counts": self.counts, "sums": "".join(f"{value:015x}" for value in self.sums)}

    @classmethod
    def from_dict(cls, data: Any, buckets: int) -> Digest:
        """Read what came. Raises ``DecodeError``."""
        counts = data.get("counts") if isinstance(data, Mapping) else None
        sums = data.get("sums") if isinstance(data, Mapping) else None
        if not isinstance(counts, list) or not isinstance(sums, str) or len(sums) != _DIGITS * buckets:
            raise DecodeError("A digest has not as many sums as buckets.", data)
        if len(counts) != buckets or any(type(count) is not int or count < 0 for count in counts):
            raise DecodeError("A digest has not as many counts as buckets.", data)
        try:
            values = [int(sums[i : i + _DIGITS], 16) for i in range(0, len(sums), _DIGITS)]
        except ValueError:
            raise DecodeError("A digest's sums are no hexadecimal digits.", data) from None
        return cls(list(counts), values)

    def differing(self, other: Digest) -> list[int]:
        """Buckets that are not the same in both."""
        pairs = zip(self.counts, other.counts, self.sums, other.sums, strict=True)
        return [i for i, (a, b, s, t) in enumerate(pairs) if a != b or s != t]


# --- a table -------------------------------------------------------------------------------------------------------


def choose_scheme(model: Any, using: str, *, settle: float = SETTLE_SECONDS) -> Scheme:
    """Buckets that suit a master's table; ranges where its keys are whole numbers without great gaps."""
    rows = model._base_manager.using(using)
    now = datetime.now(timezone.utc)
    window: dict[str, Any] = {"since": now - timedelta(seconds=settle), "until": now + _FUTURE}
    count = rows.count()
    buckets = min(MAX_BUCKETS, max(1, -(-count // BUCKET_ROWS)))
    if isinstance(serialization.value_field(model._meta.pk), models.IntegerField):
        ends = rows.aggregate(low=Min("pk"), high=Max("pk"))
        low, high = ends["low"] or 0, ends["high"] or 0
        if high - low < 8 * max(count, BUCKET_ROWS) and abs(low) < 2**62 and abs(high) < 2**62:
            return Scheme(buckets=buckets, start=low, width=max(1, -(-(high - low + 1) // buckets)), **window)
    return Scheme(buckets=buckets, **window)


def wire_text(model: Any, pk: Any) -> str:
    """Primary key text of a row, the same on both sides."""
    return serialization.pk_text(images.wire_pk(model, pk))


@dataclass
class Scan:
    """Going through a table in the order of its keys, a chunk at a time; what is done can be kept and taken up again.

    ``keep`` decides, given an instance, whether a row counts (the master's ``is_sync_instance``); with it every row is
    loaded as an instance. ``content`` has the values compared, too.
    """

    model: Any
    using: str
    scheme: Scheme
    keep: Callable[[Any], bool] | None = None
    content: contents.Content | None = None
    digest: Digest = field(init=False)
    last: Any = None
    seen: int = 0

    def __post_init__(self) -> None:
        self.digest = Digest.empty(self.scheme.buckets)
        by_hand = self.keep is not None or self.content is not None
        self.sql = None if by_hand else digest_sql.for_model(self.model, self.using)
        self.sums = contents.Sums(self.content, self.scheme.buckets) if self.content else None

    def run(self, after_chunk: Callable[[int], None] | None = None) -> Digest:
        """Go through what is left; ``after_chunk`` is called with the number of rows of each chunk."""
        while True:
            rows = self.next_chunk()
            if not rows:
                return self.digest
            if after_chunk is not None:
                after_chunk(rows)

    def next_chunk(self) -> int:
        """Count the next chunk in; returns the number of rows, 0 at the end."""
        rows = self.model._base_manager.using(self.using).order_by("pk")
        if self.last is not None:
            rows = rows.filter(pk__gt=self.last)
        size = CHUNK if self.sql else CHUNK_BY_HAND
        ends = list(rows.values_list("pk", flat=True)[size - 1 : size])
        part, number = (rows.filter(pk__lte=ends[0]), size) if ends else (rows, rows.count())
        if number:
            self._take(part.filter(self.scheme.counted()))
            self.last = ends[0] if ends else rows.order_by("-pk").values_list("pk", flat=True).first()
        self.seen += number
        return number

    def _take(self, part: Any) -> None:
        if self.sql is not None:
            part = part.order_by().annotate(cqrs_key=F("pk"), cqrs_rev=F(REVISION_FIELD))
            for bucket, count, value in self.sql.aggregate(part.values("cqrs_key", "cqrs_rev"), self.scheme):
                self.digest.add(bucket, count, value)
            return
        for text, revision, image in _read(self.model, part, self.keep, self.content):
            bucket = self.scheme.bucket(text)
            self.digest.add(bucket, 1, row_hash(text, revision))
            if self.sums is not None and image is not None:
                self.sums.add(bucket, text, image)

    def to_dict(self) -> dict[str, Any]:
        """How far it has come, to be kept."""
        return {
            "scheme": self.scheme.to_dict(), **self.digest.to_dict(), "seen": self.seen,
            "last": None if self.last is None else images.wire_pk(self.model, self.last),
            "sums_of_values": self.sums.to_dict() if self.sums else None,
        }  # fmt: skip

    def resume(self, data: Mapping[str, Any]) -> None:
        """Take up what was kept. Raises ``DecodeError``."""
        self.scheme = Scheme.from_dict(data.get("scheme"))
        self.digest = Digest.from_dict(data, self.scheme.buckets)
        self.seen = data.get("seen") or 0
        self.last = images.python_pk(self.model, data["last"]) if data.get("last") is not None else None
        if self.content is not None:
            self.sums = contents.Sums.from_dict(data.get("sums_of_values"), self.content, self.scheme.buckets)


def _read(
    model: Any, part: Any, keep: Callable[[Any], bool] | None, content: contents.Content | None
) -> Iterator[tuple[str, int, dict[str, Any] | None]]:
    """Key text, revision and, where values count, the image of the rows of a queryset."""
    if keep is not None:
        instances = [instance for instance in part if keep(instance)]
        if content is None:
            for instance in instances:
                yield wire_text(model, instance.pk), getattr(instance, REVISION_FIELD), None
            return
        part = model._base_manager.using(part.db).filter(pk__in=[instance.pk for instance in instances])
    if content is None:
        for pk, revision in part.values_list("pk", REVISION_FIELD):
            yield wire_text(model, pk), revision, None
        return
    for text, image in images.read_columns(model, part).items():
        if isinstance(image, dict):
            yield text, image[REVISION_FIELD], image


@dataclass(frozen=True)
class Row:
    """What a listing says of a row.

    ``counts``: whether it is outside the scheme's window; ``content``: hash of its values.
    """

    revision: int
    counts: bool = True
    content: str | None = None


def rows_of(
    model: Any,
    using: str,
    scheme: Scheme,
    buckets: Sequence[int],
    *,
    keep: Callable[[Any], bool] | None = None,
    content: contents.Content | None = None,
) -> dict[str, Row]:
    """The rows of some buckets by primary key text, also those that do not count."""
    wanted = set(buckets)
    found: dict[str, Row] = {}
    rows = model._base_manager.using(using).order_by("pk")
    for part in _parts(model, rows, scheme, sorted(wanted)):
        counted = part.filter(scheme.counted())
        others = part.exclude(scheme.counted()) if scheme.since else part.none()
        for text, revision, image in _read(model, counted, keep, content):
            if scheme.bucket(text) in wanted:
                found[text] = Row(revision, True, content.row(image) if content and image else None)
        for text, revision, _ in _read(model, others, keep, None):
            if scheme.bucket(text) in wanted:
                found[text] = Row(revision, False)
    return found


def _parts(model: Any, rows: Any, scheme: Scheme, buckets: list[int]) -> Iterable[Any]:
    """Querysets that together have all rows of the buckets, and not more than needed or than fits into memory."""
    if scheme.width and isinstance(serialization.value_field(model._meta.pk), models.IntegerField):
        for first, last in _runs(buckets):
            part = rows
            if first > 0:
                part = part.filter(pk__gte=scheme.start + first * scheme.width)
            if last < scheme.buckets - 1:
                part = part.filter(pk__lt=scheme.start + (last + 1) * scheme.width)
            yield part
        return
    after: Any = None
    while True:
        part = rows if after is None else rows.filter(pk__gt=after)
        ends = list(part.values_list("pk", flat=True)[CHUNK - 1 : CHUNK])
        yield part.filter(pk__lte=ends[0]) if ends else part
        if not ends:
            return
        after = ends[0]


def _runs(numbers: list[int], longest: int = 32) -> Iterable[tuple[int, int]]:
    """First and last of the runs of consecutive numbers."""
    start = previous = None
    for number in numbers:
        if previous is not None and number == previous + 1 and number - start < longest:  # type: ignore[operator]
            previous = number
            continue
        if start is not None and previous is not None:
            yield start, previous
        start = previous = number
    if start is not None and previous is not None:
        yield start, previous


class Throttle:
    """Keeps a long reading to a number of rows a second; without one it rests ``RESTS`` times as long as it works.

    So that the database is left to others.
    """

    def __init__(self, rows_per_second: float | None, sleep: Callable[[float], None] = time.sleep) -> None:
        self.rate, self.sleep = rows_per_second, sleep
        self.started = self.rested = time.monotonic()
        self.rows = 0

    def __call__(self, rows: int) -> None:
        """Wait until it is time to go on after so many more rows."""
        self.rows += rows
        now = time.monotonic()
        if self.rate:
            pause = self.rows / self.rate - (now - self.started)
        else:
            pause = min(RESTS * (now - self.rested), LONGEST_REST)
        if pause > 0:
            self.sleep(pause)
        self.rested = time.monotonic()
