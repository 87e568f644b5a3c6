"""Runs faults one after the other on one stage, and says of each run what came of it."""

from __future__ import annotations

import random
import traceback
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos import ledger
from tests.chaos.faults import Fault
from tests.chaos.stage import CONVERGENCE, REPLICAS, Stage


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str
    seed: int
    committed: int
    lost: int
    stale: int
    phantoms: int
    again: int
    seconds: float
    complaint: str | None = None
    examples: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        """Nothing lost, nothing stale, nothing of a rollback, and all quiet in time."""
        return not (self.lost or self.stale or self.phantoms or self.complaint)


def run(stage: Stage, fault: Fault, seed: int, deadline: float = CONVERGENCE) -> Row:
    """Put the load on, do the harm, let it heal, and examine what there is."""
    # Not hash(): it differs from process to process, and a seed must replay.
    number = zlib.crc32(f"{fault.name} {seed}".encode()) % 1_000_000
    complaint = None
    stage.begin()
    try:
        stage.start_load(f"{number:06d}", number, deletes=fault.deletes)
        fault.harm(stage, random.Random(number))
        if stage.writers:
            stage.let_it_work(60)
    except Exception:
        complaint = f"the fault could not be made: {traceback.format_exc()}"
    finally:
        for link in stage.links.values():
            link.mend()
        stage.restore()
        stage.stop_load()
    seconds, unwell = stage.converge(deadline)
    again = sum(stage.counted(name, "again") for name in REPLICAS)
    found = ledger.examine(stage.master_url, stage.replica_urls, stage.first_token)
    return Row(
        fault.name, seed, found.committed, found.lost, found.stale, found.phantoms, again, seconds,
        complaint or unwell or "; ".join(stage.ended) or None, tuple(found.examples),
    )  # fmt: skip


HEAD = f"{'fault':<58}{'seed':>5}{'committed':>11}{'lost':>6}{'stale':>7}{'undone':>8}{'again':>7}{'seconds':>9}"


def line(row: Row) -> str:
    """A row as a line of the table; what is wrong follows below it."""
    text = (
        f"{row.fault:<58}{row.seed:>5}{row.committed:>11}{row.lost:>6}{row.stale:>7}{row.phantoms:>8}{row.again:>7}"
        f"{row.seconds:>9.1f}"
    )
    wrong = [row.complaint] if row.complaint else []
    return "\n    ".join([text, *wrong, *row.examples])


def summary(rows: Sequence[Row]) -> str:
    """The last line."""
    committed, lost, stale = (sum(getattr(row, name) for row in rows) for name in ("committed", "lost", "stale"))
    unwell = sum(not row.is_well for row in rows)
    return f"{len(rows)} runs, {committed} changes committed, {lost} lost, {stale} stale, {unwell} runs not well"
