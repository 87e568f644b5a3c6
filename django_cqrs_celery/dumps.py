"""Dump files: all rows of a master model as lines of JSON, to fill a replica past the broker.

The first line is a header (format version, CQRS_ID, number of rows), the last one an end mark with the number of rows
that came before it, so that a truncated file is noticed; between them one row a line, as it travels in a SYNC. Where
the image need not hold the primary key (a serializer made it), a line is a list of the key and the image.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, models, transaction

from django_cqrs_celery import applier, dead_letters, images, linking, retries, sync
from django_cqrs_celery.applying import INFRASTRUCTURE
from django_cqrs_celery.constants import Outcome, SignalType
from django_cqrs_celery.dataclasses import TransportPayload, dumps, loads
from django_cqrs_celery.exceptions import CQRSError, DecodeError, EncodeError, MissingParent

FORMAT = 1
#: Lines that could not be loaded and are named, at the most; all are counted.
NAMED = 1000
#: How often a batch is tried that the database refused for reasons of its own (a deadlock with the worker).
_TRIES = 6

# --- dump ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some lines of a dump, as text; ``refused`` are rows that have no image, with the reason, by primary key text."""

    text: str
    rows: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def parts(model: Any, *, using: str | None = None, size: int = 2000) -> Iterator[Part]:
    """A dump, part by part, the first of them the header alone."""
    queryset = sync.select(model, using=using)
    has_key = images.is_plain(model)
    header = {
        "cqrs_dump": FORMAT, "cqrs_id": model.CQRS_ID, "pk": model._meta.pk.name if has_key else None,
        "count": queryset.count(),
    }  # fmt: skip
    yield Part(text=dumps(header) + "\n")
    written = 0
    for found in sync.lines_in_chunks(queryset, size):
        refused = {key: str(line) for key, line in found.items() if isinstance(line, EncodeError)}
        lines = found if not refused else {key: line for key, line in found.items() if key not in refused}
        if not has_key:
            wire_pks = {key: dumps(images.wire_pk(model, images.python_pk(model, key))) for key in lines}
            lines = {key: f"[{wire_pks[key]},{line}]" for key, line in lines.items()}
        written += len(lines)
        yield Part(text="".join([f"{line}\n" for line in lines.values()]), rows=len(lines), refused=refused)
    yield Part(text=dumps({"cqrs_end": written}) + "\n")


# --- load ----------------------------------------------------------------------------------------------------------


@dataclass
class Loaded:
    """What loading came to.

    ``outcomes``: rows by outcome. ``waiting``: rows that are kept as dead letters until their parent rows are here.
    ``bad``: lines that could not be loaded; ``bad_lines``: the first of them, each with the reason.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    bad_lines: list[tuple[int, str]] = field(default_factory=list)
    bad: int = 0
    waiting: int = 0
    rows: int = 0

    def refuse(self, line: int, reason: str) -> None:
        """Note a line that could not be loaded."""
        self.bad += 1
        if len(self.bad_lines) < NAMED:
            self.bad_lines.append((line, reason))


class _Collector(dead_letters.Keeper):
    """Notes what fails instead of keeping it: the line is still in the file. What lacks its parent waits for it."""

    def __init__(self, line_of: dict[int, int]) -> None:
        super().__init__()
        self.line_of = line_of
        #: Reason by line; of a batch that is applied again in parts, the last word counts.
        self.failed: dict[int, str] = {}

    def set_aside(self, change: TransportPayload, error: BaseException, using: str) -> None:
        """Note the line of a row that could not be applied."""
        line = self.line_of.get(id(change))
        if line is None or (isinstance(error, MissingParent) and error.cqrs_id is not None):
            # A change that is not of this file, or one that the parent's arrival will release.
            super().set_aside(change, error, using)
            self.failed.pop(line or 0, None)
        else:
            self.failed[line] = f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def header_of(line: str | bytes) -> dict[str, Any]:
    """The header of a dump. Raises ``CQRSError`` where the file is no dump, or one of a newer format."""
    try:
        header = loads(line)
    except DecodeError:
        header = None
    if not isinstance(header, dict) or "cqrs_dump" not in header or not isinstance(header.get("cqrs_id"), str):
        raise CQRSError("This is no dump of cqrs_bulk_dump: its first line is not a header.")
    if header["cqrs_dump"] != FORMAT:
        raise CQRSError(f"The dump has the format {header['cqrs_dump']}, this release reads {FORMAT}.")
    return header


def load(
    header: dict[str, Any],
    body: Iterable[str | bytes],
    *,
    size: int = 2000,
    show: Callable[[int], None] = lambda rows: None,
) -> Loaded:
    """Load the lines after the header, ``size`` rows a transaction; ``show`` is told how many have been read.

    Goes on after a bad line. Raises ``CQRSError`` at the end where the file was cut short.
    """
    result = Loaded()
    lines = _until_cut(body)
    end: int | None = None
    while end is None:
        changes: list[TransportPayload] = []
        line_of: dict[int, int] = {}
        read = 0
        for line in itertools.islice(lines, size):
            read += 1
            try:
                data = loads(line)
                end = _end_of(data)
                if end is not None:
                    break
                change = _change(header, data)
                changes.append(change)
                line_of[id(change)] = result.rows + 2
            except DecodeError as error:
                result.refuse(result.rows + 2, _first_line(error))
            result.rows += 1
        if not read:
            break
        _apply(result, changes, line_of)
        show(result.rows)
    if end is None or end != result.rows:
        wanted = header.get("count", "unknown") if end is None else end
        raise CQRSError(
            f"The dump is cut short: {result.rows} rows of {wanted} were there, and were loaded. Make a new dump and"
            " load it; rows that are here already are no problem."
        )
    if next(lines, b"").strip():
        raise CQRSError("There is something after the end of the dump, which was not read: load dumps one by one.")
    return result


def _until_cut(body: Iterable[str | bytes]) -> Iterator[str | bytes]:
    """Lines as long as they can be read: a compressed file that is cut short ends with an error."""
    try:
        yield from body
    except (EOFError, zlib.error, OSError):
        return


def _end_of(data: Any) -> int | None:
    return data["cqrs_end"] if isinstance(data, dict) and list(data) == ["cqrs_end"] else None


def _change(header: dict[str, Any], data: Any) -> TransportPayload:
    if isinstance(data, list) and len(data) == 2:
        pk, data = data
    else:
        pk = data.get(header.get("pk")) if isinstance(data, dict) else None
    return TransportPayload.from_dict(
        {
            "signal_type": SignalType.SYNC.value, "cqrs_id": header["cqrs_id"], "instance_pk": pk,
            "instance_data": data,
        }  # fmt: skip
    )


def _apply(result: Loaded, changes: list[TransportPayload], line_of: dict[int, int]) -> None:
    for attempt in itertools.count(1):
        collector = _Collector(line_of)
        try:
            outcomes = applier.apply(changes, collector)
            break
        except INFRASTRUCTURE:
            if attempt == _TRIES:
                raise
            time.sleep(retries.backoff(attempt, first=0.1, cap=3.0))
            for connection in connections.all(initialized_only=True):
                connection.close_if_unusable_or_obsolete()
    for change, outcome in zip(changes, outcomes, strict=True):
        line = line_of[id(change)]
        if outcome is not Outcome.FAILED:
            result.outcomes[outcome.value] = result.outcomes.get(outcome.value, 0) + 1
        elif line in collector.failed:
            result.refuse(line, collector.failed[line])
        else:
            result.waiting += 1


def clear(model: Any, *, size: int = 2000) -> int:
    """Delete all rows of a replica model, ``size`` at once, with whatever Django deletes along; returns how many.

    Raises ``CQRSError`` for a replica that is no table.
    """
    if not issubclass(model, models.Model) or model.CQRS_NO_DB_OPERATIONS:
        raise CQRSError(f"{model.CQRS_ID} is kept in no table of this service: there is nothing to clear.")
    using = applier.alias_of(model)
    rows = model._base_manager.using(using).order_by("pk")
    count = 0
    while pks := list(rows.values_list("pk", flat=True)[:size]):
        count += len(pks)
        with transaction.atomic(using=using):
            # Rows of other models that are linked with these get their links back when these are loaded again.
            kept = linking.about_to_go(model, pks, (), using)
            rows.order_by().filter(pk__in=pks).delete()
            linking.keep_broken(kept, using)
            linking.forget(model, [linking.text_of(model, pk) for pk in pks], using)
    return count
