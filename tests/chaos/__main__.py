"""``python -m tests.chaos``: break the system in every way that is known here, and print what came of it.

Exits with 1 if anything was lost, stale or not quiet in time. With ``--cheat`` the system itself is broken on purpose,
and losses are what must be found.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.chaos import brokers, measures, runner
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.stage import CONVERGENCE, Options, Stage, stage
from tests.integration import servers

#: Faults that show the losses of a system that cheats.
REVEALING = {
    "acks": ["pool process killed after receive", "worker killed after receive", "process group of a worker killed"],
    "outbox": [
        "link to the broker cut", "master killed after the commit, before dispatch",
        "master killed before the confirm",
    ],
}  # fmt: skip


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of the load (1 2 3)")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="faults whose names contain a text")
    parser.add_argument("--short", action="store_true", help="short outages")
    parser.add_argument("--cheat", choices=sorted(REVEALING), help="break the system itself; losses are expected")
    parser.add_argument("--measure", action="store_true", help="measure outages instead of breaking things")
    parser.add_argument(
        "--dispatch", choices=["background", "on_commit", "relay"], default="background",
        help="dispatch mode of the writers (background; every second seed leaves it to the relay)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--keep", action="store_true", help="keep the logs of the processes")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Fault]:
    """The faults that were asked for."""
    names = REVEALING[options.cheat] if options.cheat else FAULTS
    return [FAULTS[name] for name in names if any(part in name for part in options.only)]


@contextlib.contextmanager
def built(folder: Path, options: argparse.Namespace, needs_node: bool) -> Iterator[Stage]:
    """A stage; with a broker of its own where that is to be harmed as a whole."""
    with contextlib.ExitStack() as stack:
        if needs_node:
            server = stack.enter_context(brokers.own_node(folder / "broker"))
            made = Options(folder, None, server=server, cheat=options.cheat, dispatch=options.dispatch)
        else:
            vhost = stack.enter_context(servers.own_vhost())
            made = Options(folder, vhost, cheat=options.cheat, dispatch=options.dispatch)
        yield stack.enter_context(stage(made))


def break_things(system: Stage, options: argparse.Namespace) -> bool:
    """Run the faults and print the table; True where all is well."""
    rows = []
    print(runner.HEAD, flush=True)  # noqa: T201
    for fault in chosen(options):
        for seed in options.seeds:
            rows.append(runner.run(system, fault, seed, 10 if options.cheat else CONVERGENCE))
            print(runner.line(rows[-1]), flush=True)  # noqa: T201
    print(runner.summary(rows))  # noqa: T201
    return bool(rows) and all(row.is_well for row in rows)


def measure(system: Stage) -> bool:
    """Measure and print; True where all is within its limits."""
    well = True
    for figure in measures.measure(system):
        print(f"{'ok   ' if figure.is_well else 'WRONG'} {figure.text}", flush=True)  # noqa: T201
        well &= figure.is_well
    return well


def main() -> int:
    """Run what was asked for."""
    options = arguments()
    if options.list:
        print("\n".join(FAULTS))  # noqa: T201
        return 0
    os.environ.setdefault("CQRS_CHAOS", "short" if options.short else "full")
    folder = Path(tempfile.mkdtemp(prefix="cqrs-chaos-"))
    needs_node = options.measure or any(fault.needs == "node" for fault in chosen(options))
    try:
        with built(folder, options, needs_node) as system:
            well = measure(system) if options.measure else break_things(system, options)
    finally:
        if options.keep:
            print(f"Logs: {folder}")  # noqa: T201
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
