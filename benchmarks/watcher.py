"""A process that notes when rows appear in the replica: ``python -m benchmarks.watcher <rows>`` prints JSON.

One of its own, so that looking does not compete with the master's process for its interpreter. The monotonic clock is
the same in all processes of a machine.
"""

import json
import sys
import time

from benchmarks import servers


def main() -> None:
    """Watch until so many rows are there."""
    wanted, seen = int(sys.argv[1]), {}
    deadline = time.monotonic() + 120
    with servers.side("replica") as connection:
        print("ready", flush=True)
        while len(seen) < wanted and time.monotonic() < deadline:
            rows = connection.execute("SELECT id FROM person WHERE NOT id = ANY(%s)", (list(seen),)).fetchall()
            now = time.monotonic()
            seen.update({row[0]: now for row in rows})
            time.sleep(0.002)
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
