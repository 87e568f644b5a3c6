"""A process that notes when the replica has what the master saved: ``python -m benchmarks.watcher rows <number>``.

One of its own, so that looking does not compete with the master's process for its interpreter. The monotonic clock is
the same in all processes of a machine.
"""

import json
import sys
import time

from benchmarks import servers

#: Seconds after which it gives up.
PATIENCE = 120


def rows(wanted: int) -> None:
    """Watch until so many rows are there, then print when each came, by its key."""
    seen: dict[int, float] = {}
    deadline = time.monotonic() + PATIENCE
    with servers.side("replica") as connection:
        print("ready", flush=True)
        while len(seen) < wanted and time.monotonic() < deadline:
            found = connection.execute("SELECT id FROM person WHERE NOT id = ANY(%s)", (list(seen),)).fetchall()
            now = time.monotonic()
            seen.update({row[0]: now for row in found})
            time.sleep(0.002)
    print(json.dumps(seen), flush=True)


def revisions(last: int) -> None:
    """Print the time at which each new revision of the one row came, until the last one has."""
    known, deadline = -1, time.monotonic() + PATIENCE
    with servers.side("replica") as connection:
        print("ready", flush=True)
        while known < last and time.monotonic() < deadline:
            found = servers.value(connection, "SELECT max(cqrs_revision) FROM person")
            if found is not None and found > known:
                known = found
                print(json.dumps([known, time.monotonic()]), flush=True)
            time.sleep(0.0005)


if __name__ == "__main__":
    {"rows": rows, "revisions": revisions}[sys.argv[1]](int(sys.argv[2]))
