"""What the demo does with its services: import, change, measure, compare, and say how it went."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from example_project import geonames
from example_project.demo import comparison, screen
from example_project.demo.processes import Processes
from example_project.demo.screen import say
from example_project.demo.services import Service

MODELS = ("country", "city")
#: Seconds without any movement after which the demo waits no longer and says what differs.
STALLED_SECONDS = 60.0
PROBES = 20
PROBE_SECONDS = 15.0
OPEN_LETTERS = ("pending", "waiting", "dead")
OUTBOX_PENDING, OUTBOX_FAILED = "0", "2"

Overview = dict[str, Any]


def row_count(overview: Overview) -> int:
    """Rows of both models."""
    return sum(overview["rows"][cqrs_id]["count"] for cqrs_id in MODELS)


def is_level(master: Overview, replica: Overview) -> bool:
    """Whether a replica has as many rows as the master, with revisions of the same sum: all has probably arrived."""
    return not master["outbox"].get(OUTBOX_PENDING) and all(
        master["rows"][cqrs_id] == replica["rows"][cqrs_id] for cqrs_id in MODELS
    )


@dataclass
class Figures:
    """What was measured of a replica."""

    import_rate: float = 0.0
    change_seconds: float = 0.0
    lags: list[float] = field(default_factory=list)
    differences: dict[str, comparison.Difference] = field(default_factory=dict)
    letters: dict[str, int] = field(default_factory=dict)

    @property
    def open_letters(self) -> int:
        return sum(self.letters.get(status, 0) for status in OPEN_LETTERS)

    @property
    def is_good(self) -> bool:
        return not self.open_letters and not any(self.differences.values())


class Story:
    """One run."""

    def __init__(self, services: list[Service], processes: Processes, cities: int | None) -> None:
        self.master, *self.replicas = services
        self.processes, self.cities = processes, cities
        self.figures = {replica.name: Figures() for replica in self.replicas}
        self.done: dict[str, int] = {}
        self.seconds = 0.0

    def tell(self) -> bool:
        """All chapters; whether every replica equals the master, with nothing left over."""
        started = time.monotonic()
        self._import()
        self._change()
        self._probe()
        self._compare()
        self.seconds = time.monotonic() - started
        return self._summarise()

    # -- chapters ----------------------------------------------------------------------------------------------------

    def _import(self) -> None:
        total = len(geonames.countries()) + geonames.city_count(self.cities)
        say(f"\nImporting {total:,} countries and cities on the master, through the ORM:")
        limit = ("--cities", str(self.cities)) if self.cities is not None else ()
        self.processes.begin("import", *self.master.manage("import_places", *limit))
        for name, seconds in self._follow("import", total).items():
            self.figures[name].import_rate = total / seconds

    def _change(self) -> None:
        say("\nChanging on the master: saves, bulk updates, deletes, cascades, the same primary keys again, rollbacks:")
        self.processes.begin("change", *self.master.manage("change_places"))
        for name, seconds in self._follow("change", None).items():
            self.figures[name].change_seconds = seconds
        self.done = json.loads(self.processes.output_of("change").splitlines()[-1])

    def _follow(self, work: str, total: int | None) -> dict[str, float]:
        """Show how replication advances until all is there; the seconds that it took each replica."""
        started = moved = time.monotonic()
        line, seen, level = screen.LiveLine(), None, dict[str, float]()
        while True:
            is_done = self.processes.is_done(work)
            master = self.master.overview()
            held = {replica.name: replica.overview() for replica in self.replicas}
            now = time.monotonic()
            for name, overview in held.items():
                if is_done and is_level(master, overview):
                    level.setdefault(name, now - started)
                else:
                    level.pop(name, None)
            line.show(self._progress(work, master, held, total, now - started))
            if len(level) == len(held):
                line.end()
                return level
            if (master, held) != seen:
                seen, moved = (master, held), now
            elif now - moved > STALLED_SECONDS:
                line.end()
                say(f"Nothing has moved for {STALLED_SECONDS:.0f} s; the demo waits no longer.")
                return level
            time.sleep(0.25)

    @staticmethod
    def _progress(work: str, master: Overview, held: dict[str, Overview], total: int | None, seconds: float) -> str:
        count = row_count(master)
        parts = [f"{work} {screen.bar(count, total)}" if total else f"{work} master {count:,} rows"]
        for name, overview in held.items():
            rows = row_count(overview)
            parts.append(f"{name} {rows:,} ({rows / seconds:,.0f}/s)" if total else f"{name} {rows:,}")
        waiting = master["outbox"].get(OUTBOX_PENDING, 0)
        return "   ".join(parts) + (f"   outbox {waiting:,}" if waiting else "")

    def _probe(self) -> None:
        """Change single rows over the master's web page, and measure when each replica has them."""
        say(f"\nMeasuring {PROBES} single changes, from the request to the master to the row on each replica ...")
        for city in geonames.cities(PROBES):
            started = time.monotonic()
            changed = self.master.change("city", city["id"], population=city["population"] + 7)
            waiting = list(self.replicas)
            while waiting:
                self.processes.check()
                for replica in list(waiting):
                    if replica.row("city", city["id"])["cqrs_revision"] >= changed["cqrs_revision"]:
                        self.figures[replica.name].lags.append(time.monotonic() - started)
                        waiting.remove(replica)
                if time.monotonic() - started > PROBE_SECONDS:
                    say(f"  city {city['id']} has not reached {', '.join(r.name for r in waiting)}")
                    break
                time.sleep(0.002)

    def _compare(self) -> None:
        say("Comparing every row, field by field ...")
        for cqrs_id in MODELS:
            master = comparison.by_key(cqrs_id, self.master.rows(cqrs_id))
            for replica in self.replicas:
                rows = comparison.by_key(cqrs_id, replica.rows(cqrs_id))
                kept = comparison.KEPT[replica.name][cqrs_id]
                self.figures[replica.name].differences[cqrs_id] = comparison.compare(master, rows, kept)
        for replica in self.replicas:
            self.figures[replica.name].letters = replica.overview()["dead_letters"]

    # -- the end -----------------------------------------------------------------------------------------------------

    def _summarise(self) -> bool:
        master = self.master.overview()
        waiting, failed = (master["outbox"].get(status, 0) for status in (OUTBOX_PENDING, OUTBOX_FAILED))
        figures = list(self.figures.values())
        is_good = all(f.is_good for f in figures) and not waiting and not failed
        changes = ", ".join(f"{number:,} {what}" for what, number in self.done.items())
        say(f"\nSummary ({self.seconds:.0f} s)")
        say(f"  master: {row_count(master):,} rows; then {changes}; outbox: {waiting} waiting, {failed} failed")
        say(screen.table([("", *self.figures), *self._summary_rows(figures)]))
        say("\nAll equal." if is_good else "\nNOT EQUAL, or something is left over: see above.")
        return is_good

    @staticmethod
    def _summary_rows(figures: list[Figures]) -> list[tuple[str, ...]]:
        def lags(f: Figures) -> str:
            return f"{1000 * median(f.lags):.0f} / {1000 * max(f.lags):.0f} ms" if f.lags else "-"

        return [
            *((f"{cqrs_id}: rows equal to the master's", *(f"{f.differences[cqrs_id].equal:,}" for f in figures))
              for cqrs_id in MODELS),
            *((f"{cqrs_id}: verdict", *(str(f.differences[cqrs_id]) for f in figures)) for cqrs_id in MODELS),
            ("import, changes/s", *(f"{f.import_rate:,.0f}" for f in figures)),
            ("all changes applied after, s", *(f"{f.change_seconds:.1f}" for f in figures)),
            ("lag of one change, median / worst", *(lags(f) for f in figures)),
            ("set aside and settled", *(str(sum(f.letters.values()) - f.open_letters) for f in figures)),
            ("open dead letters", *(str(f.open_letters) for f in figures)),
        ]
