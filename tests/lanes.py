"""Who runs what where two processes share the tests (``pytest -n 2``, which is what ``make test`` does).

Most tests stay in the process of pytest and wait for databases; others start whole systems of workers, relays and
demos, which have deadlines and keep the machine busy by themselves. So one system runs at a time, and beside it what
needs no other process. All names on servers are a process's own: databases by its id, queues and virtual hosts by
chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
#: Files and folders that start systems. What one of them shares is made once, so all of it goes to one process.
SYSTEMS = (
    "tests/integration/test_failures.py",
    "tests/integration/test_flow.py",
    "tests/integration/test_healing.py",
    "tests/integration/",
    "tests/chaos/",
    "tests/parity/test_where_django_cqrs_loses.py",
    "tests/benchmarks/",
    "tests/bridge/",
    "tests/example/",
    "tests/docs/test_r",
)


def unit_of(nodeid: str) -> str:
    """What goes to a process as a whole: an entry of ``SYSTEMS``, or else a file."""
    path = nodeid.partition("::")[0]
    return next((unit for unit in SYSTEMS if path.startswith(unit)), path)


class OneSystemAtATime(LoadScopeScheduling):
    """Gives a process the next system where no other process has one, and the next file of other tests where one has.

    Only where nothing else is left two systems run at once.
    """

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        others = [units for other, units in self.assigned_work.items() if other is not node]
        running = {unit for units in others for unit, tests in units.items() if not all(tests.values())}
        wants_system = running.isdisjoint(SYSTEMS)
        for unit in self.workqueue:
            if (unit in SYSTEMS) is wants_system:
                self.workqueue.move_to_end(unit, last=False)
                break
        super()._assign_work_unit(node)
