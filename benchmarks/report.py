"""From the numbers of a run to a table and a plot.

Every line is the median over the repetitions; what is compared within a repetition (a save with a plain save) is
divided there, and the median is that of the quotients.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import OURS, PEER

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table. ``better``: whether ``more`` or ``less`` of it is; ``format``: of its values."""

    name: str
    ours: float | None
    peer: float | None
    better: str
    format: str
    beside: str = ""

    @property
    def times(self) -> float | None:
        """How many times better than the peer."""
        if not self.ours or not self.peer:
            return None
        return self.ours / self.peer if self.better == "more" else self.peer / self.ours

    def cells(self) -> list[str]:
        """What the table shows."""
        shown = [_shown(value, self.format) for value in (self.ours, self.peer)]
        return [self.name, *shown, "" if self.times is None else f"{self.times:.1f}", self.beside]


class Numbers:
    """The records of a run, to be asked for medians."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def median(self, key: str, title: str, library: str = OURS, **wanted: Any) -> float | None:
        """Median of a number over the records that match; None where there are none."""
        found = [
            record[key]
            for record in self.records
            if record["title"] == title and record["library"] == library and key in record
            and all(record.get(name) == value for name, value in wanted.items())
        ]  # fmt: skip
        return statistics.median(found) if found else None

    def line(
        self, name: str, key: str, title: str, *, better: str = "more", format: str = "{:,.0f}", beside: str = "",
        **wanted: Any,
    ) -> Line:
        """The line that compares both libraries."""
        ours, peer = (self.median(key, title, library, **wanted) for library in (OURS, PEER))
        return Line(name=name, ours=ours, peer=peer, better=better, format=format, beside=beside)


def lines(records: list[Record]) -> list[Line]:
    """The table."""
    numbers = Numbers(records)

    def limit(name: str) -> float | None:
        return numbers.median("per_s", "limits", limit=name)

    return [
        *_saves(numbers), *_rates(numbers, limit), *_bulk(numbers), *_latencies(numbers), *_outage(numbers),
        *_memory(numbers),
    ]  # fmt: skip


def _saves(numbers: Numbers) -> list[Line]:
    found = []
    for title in ("save", "save, broker away"):
        for place, words in (("autocommit", "autocommit"), ("atomic", "in blocks of 100")):
            for kind in ("create", "update"):
                for number in ("median", "mean"):
                    name = f"{title}, {kind}, {words}: times a plain save ({number})"
                    wanted = {"kind": kind, "place": place}
                    found.append(
                        numbers.line(name, f"ratio_{number}", title, better="less", format="{:.2f}", **wanted)
                    )
    return found


def _rates(numbers: Numbers, limit: Callable[[str], float | None]) -> list[Line]:
    tasks = [limit(f"Celery, empty tasks, {text}") for text in ("1 process", "2 processes")]
    return [
        numbers.line("apply, one change a message, 1 process: changes/s", "changes_per_s", "apply", workers=1,
                     beside=_of("empty Celery tasks", tasks[0])),
        numbers.line("apply, one change a message, 2 processes: changes/s", "changes_per_s", "apply", workers=2,
                     beside=_of("empty Celery tasks", tasks[1])),
        numbers.line("apply, many changes a message, 1 process: changes/s", "changes_per_s", "apply, grouped",
                     beside=_of("upsert of 500 rows", limit("PostgreSQL, upsert of 500 rows"))),
        numbers.line("apply, a model with hooks, 1 process: changes/s", "changes_per_s", "apply, hooks",
                     beside=_of("commits of one row", limit("PostgreSQL, commits of one row"))),
        numbers.line("cqrs_sync, end to end: rows/s", "rows_per_s", "sync"),
        numbers.line("cqrs_bulk_dump: rows/s", "dump_rows_per_s", "dump and load"),
        numbers.line("cqrs_bulk_load: rows/s", "load_rows_per_s", "dump and load"),
        numbers.line("cqrs_diff_*, by pipe: rows/s", "rows_per_s", "diff by pipe"),
    ]  # fmt: skip


def _of(name: str, value: float | None) -> str:
    return "" if value is None else f"{name}: {value:,.0f}/s"


def _bulk(numbers: Numbers) -> list[Line]:
    return [
        numbers.line("bulk_create of 5,000: times Django's own", "ratio", "bulk_create", better="less",
                     format="{:.2f}"),
        numbers.line("bulk_create of 5,000: messages", "messages", "bulk_create", better="less"),
        numbers.line("bulk_update of 100,000 rows (peer 10,000): times a plain update", "ratio", "bulk_update",
                     better="less", format="{:.2f}"),
        numbers.line("bulk_update of 100,000 rows (peer 10,000): memory it takes, MB", "memory_mb", "bulk_update",
                     better="less", format="{:.1f}"),
    ]  # fmt: skip


def _latencies(numbers: Numbers) -> list[Line]:
    found = []
    for title, words in (("latency", "a lone save"), ("latency at 500 saves/s", "under 500 saves/s")):
        for key, number in (("median_ms", "median"), ("p99_ms", "p99")):
            name = f"commit to replica row, {words}: ms ({number})"
            found.append(numbers.line(name, key, title, better="less", format="{:.1f}"))
    return found


def _outage(numbers: Numbers) -> list[Line]:
    return [
        numbers.line(f"save at 500/s, broker {state}: ms ({number})", f"{state}_{number}_ms", "outage", better="less",
                     format="{:.2f}")
        for number in ("median", "p99") for state in ("there", "away")
    ]  # fmt: skip


def _memory(numbers: Numbers) -> list[Line]:
    changes = numbers.median("changes", "memory")
    words = f"over {changes:,.0f} changes" if changes else ""
    return [
        numbers.line(f"{who}'s growth {words}: MB", f"{who}_growth_mb", "memory", better="less", format="{:.1f}")
        for who in ("master", "worker")
    ]


def growth(records: list[Record]) -> list[Line]:
    """The same work on tables of more and more rows; beside: the cost of a change relative to the smallest table."""
    numbers = Numbers(records)
    found = []
    sizes = sorted({record["rows"] for record in records if record["title"].startswith("growth")})
    for name, key, title, better, wanted in (
        ("save, update: times a plain save (median)", "ratio_median", "growth, save", "less",
         {"kind": "update", "place": "autocommit", "format": "{:.2f}"}),
        ("apply: changes/s", "changes_per_s", "growth, apply", "more", {}),
    ):  # fmt: skip
        first = None
        for rows in sizes:
            line = numbers.line(f"{name}, table of {rows:,} rows", key, title, better=better, rows=rows, **wanted)
            first = first or line
            cost = "" if not (line.ours and first.ours) else _cost(line.ours, first.ours, better)
            found.append(Line(**{**line.__dict__, "beside": cost}))
    return found


def _cost(value: float, first: float, better: str) -> str:
    return f"{(value / first if better == 'less' else first / value):.2f}"


def tuning(records: list[Record]) -> list[list[str]]:
    """What a setting other than the default does, by the numbers that it moves."""
    numbers = Numbers(records)
    names = dict.fromkeys(r["title"] for r in records if r["title"].startswith("tuning, "))
    autocommit = {"kind": "update", "place": "autocommit"}
    found = []
    for title in names:
        cells = [
            _shown(numbers.median("ratio_median", title, **autocommit), "{:.2f}"),
            _shown(numbers.median("ratio_mean", title, **autocommit), "{:.2f}"),
            _shown(numbers.median("median_ms", title), "{:.0f}"),
            _shown(numbers.median("p99_ms", title), "{:.0f}"),
            _shown(numbers.median("changes_per_s", title), "{:,.0f}"),
        ]
        if any(cells):
            found.append([title.removeprefix("tuning, "), *cells])
    return found


def capture(records: list[Record]) -> list[list[str]]:
    """What a write costs, times that of a plain table: by who captures and who publishes, on each engine.

    The peer's are those of the same run, where it has such a write.
    """
    numbers = Numbers(records)
    found = []
    for engine, write in dict.fromkeys((r["engine"], r["write"]) for r in records if "ratio_trigger" in r):
        cells = [
            numbers.median(f"ratio_{kind}", "capture", engine=engine, write=write, dispatch=dispatch)
            for kind in ("trigger", "orm") for dispatch in ("relay", "background")
        ]  # fmt: skip
        cells.append(_of_peer(numbers, write) if engine == "postgresql" else None)
        found.append([engine, write, *(_shown(cell, "{:.2f}") for cell in cells)])
    return found


def _of_peer(numbers: Numbers, write: str) -> float | None:
    if not write.startswith("save()"):
        return numbers.median("ratio", {"bulk_create": "bulk_create"}.get(write, "bulk_update"), PEER)
    _, kind, place = write.split(", ")
    wanted = {"kind": kind, "place": "autocommit" if place == "autocommit" else "atomic"}
    return numbers.median("ratio_median", "save", PEER, **wanted)


def _shown(value: float | None, format: str) -> str:
    return "" if value is None else format.format(value)


def limits(records: list[Record]) -> list[tuple[str, float]]:
    """What the machine can do."""
    names = dict.fromkeys(record["limit"] for record in records if "limit" in record)
    found = [(name, Numbers(records).median("per_s", "limits", limit=name)) for name in names]
    return [(name, value) for name, value in found if value is not None]


# --- files ---------------------------------------------------------------------------------------------------------

_HEAD = ("what", "django-cqrs-celery", "django-cqrs 3.1.0", "times better", "beside")
_GROWTH_HEAD = (*_HEAD[:4], "cost of a change, smallest table = 1")
_TUNING_HEAD = (
    "setting", "an update in autocommit: times a plain one (median)", "(mean)",
    "500 saves/s: ms to the replica (median)", "(p99)", "apply: changes/s",
)  # fmt: skip
_CAPTURE_HEAD = (
    "database", "write, times a plain one", "triggers, ``relay``", "triggers, ``background``", "ORM, ``relay``",
    "ORM, ``background``", "django-cqrs 3.1.0",
)  # fmt: skip


def write(result: dict[str, Any], folder: Path) -> None:
    """Write the numbers, the tables and the plot of a run."""
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    records = result["records"]
    tables = [
        (_HEAD, [line.cells() for line in lines(records) if line.ours is not None]),
        (_GROWTH_HEAD, [line.cells() for line in growth(records) if line.ours is not None]),
        (_TUNING_HEAD, tuning(records)),
        (("limit of this machine", "a second"), [[name, f"{value:,.0f}"] for name, value in limits(records)]),
        (_CAPTURE_HEAD, capture(records)),
    ]
    (folder / "table.md").write_text("\n".join(_markdown(*table) for table in tables if table[1]))
    for name, table in zip(("compared", "growth", "tuning", "limits", "capture"), tables, strict=True):
        (folder / f"{name}.inc").write_text(_list_table(*table))
    print((folder / "table.md").read_text())
    try:
        from benchmarks import plot
    except ImportError:
        print("No plot: it needs matplotlib (the extra 'bench').")
    else:
        plot.draw(lines(records), limits(records), folder / "plot.svg")


def _markdown(head: tuple[str, ...], rows: list[list[str]]) -> str:
    parts = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(part) + " |" for part in parts) + "\n"


def _list_table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    if not rows:
        return "Not measured in this run.\n"
    text = [".. list-table::", "   :header-rows: 1", ""]
    for part in (head, *rows):
        text += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(part)]
    return "\n".join(text) + "\n"
