"""What a digest round costs, with real services: ``python -m benchmarks.healing --rows 1000000``.

One master and one replica (the projects of ``tests/integration``) are filled by SQL. Then a round in sync, a round with
ten rows that differ, and one with 1 % changed, removed or added; processor seconds are those of the worker and of its
database connections (PostgreSQL), bytes those of all messages, saves those of another process meanwhile. Prints a JSON
object for each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from django_cqrs_celery.dataclasses import decode_message
from tests.integration import harness
from tests.integration.system import System, system

_TICKS = os.sysconf("SC_CLK_TCK")
_OLD = "'2024-01-01 00:00:00'"
_STATE = "result = list(SyncState.objects.filter(cqrs_id='city', mode='digest').exclude(queue='').values())"
_SAVES = """
import statistics, time
times, end = [], time.monotonic() + seconds
while time.monotonic() < end:
    for pk in range(1, 50):
        row = City.objects.get(id=pk)
        row.population += 1
        began = time.perf_counter()
        row.save()
        times.append(time.perf_counter() - began)
        time.sleep(0.004)
result = [len(times), statistics.median(times) * 1000, statistics.quantiles(times, n=20)[-1] * 1000]
"""
_FILL = {
    # Triggers would promise every row.
    "postgresql": "SET session_replication_role = replica;"
    " INSERT INTO {0} ({1}) SELECT {2} FROM generate_series(1, {3}) AS seq; SET session_replication_role = DEFAULT",
    "mysql": "INSERT INTO {0} ({1}) SELECT {2} FROM seq_1_to_{3}",
}
_ROW = {
    "id": "seq", "name": "CONCAT('City ', seq)", "country_id": "'c1'", "population": "seq", "cqrs_revision": "1",
    "cqrs_updated": _OLD,
}  # fmt: skip


def fill(project: harness.Project, table: str, rows: int) -> None:
    """Fill a table by SQL, and let the database know its size."""
    columns, values = ", ".join(_ROW), ", ".join(_ROW.values())
    sql = {vendor: text.format(table, columns, values, rows) for vendor, text in _FILL.items()}
    if project.name == "shop":
        project.run("Country.objects.create(iso='c1', name='c')\ncall_command('cqrs_relay')")
    project.run(
        f"""
with connection.cursor() as cursor:
    cursor.execute(sql[connection.vendor])
    cursor.execute("ANALYZE " + ("TABLE " if connection.vendor == "mysql" else "") + "{table}")
""",
        sql=sql,
    )


def tree(pid: int) -> list[int]:
    """A process and what it has started."""
    found = [pid]
    for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += tree(int(line))
    return found


def cpu(pids: list[int]) -> float:
    """Processor seconds that processes have used."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory(pids: list[int], name: str) -> int:
    """Kilobytes of the largest of some processes: ``VmRSS`` now, ``VmHWM`` at the most."""
    sizes = [0]
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            sizes += [int(line.split()[1]) for line in lines if line.startswith(name)]
    return max(sizes)


def backends(project: harness.Project) -> list[int]:
    """Processes of the database that serve a project; none where it is not PostgreSQL."""
    url = project.env["TESTBED_DATABASE_URL"]
    if not url.startswith("postgres"):
        return []
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [urlsplit(url).path.lstrip("/")],
        ).fetchall()
    return [row[0] for row in rows]


class Measure:
    """One system, its two workers and what is asked of them."""

    def __init__(self, built: System, rows: int) -> None:
        self.built, self.rows = built, rows
        queue = built.master.env["TESTBED_DEFAULT_QUEUE"]
        self.workers = [
            (built.master, built.master.worker("-c", "1", queues=queue)),
            (built.search, built.search.worker("-c", "1")),
        ]

    def close(self) -> None:
        """End the workers."""
        harness.stop_all([worker for _, worker in self.workers])

    def round(
        self, name: str, *, done: Callable[[dict[str, Any]], Any], cqrs_id: str = "city", watch: bool = True,
        **kwargs: Any,
    ) -> Any:
        """A round, from the task to the last answer; ``watch``: also the database's processes, at some cost."""
        tap = self.built.queue("tap")
        self.built.broker.tap(tap)
        pids = [tree(worker.pid) for _, worker in self.workers]
        for each in pids:
            for pid in each:
                with contextlib.suppress(OSError):
                    Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = [cpu(each) for each in pids]
        earlier = [state["round"] for state in self.built.master.run(_STATE.replace("city", cqrs_id))]
        # The worker's connection closes after the task, so the database's processes are watched while it is at work.
        served: list[dict[int, float]] = [{}, {}]
        first = [memory(each, "VmRSS") for each in pids]
        began, tick = time.monotonic(), 0.0
        idle = [{pid: cpu([pid]) for pid in backends(project)} for project, _ in self.workers]
        self.built.master.run(
            "from django_cqrs_celery.tasks import cqrs_sync\ncqrs_sync.delay(**arguments)",
            arguments={"cqrs_id": cqrs_id, "mode": "digest", **kwargs},
        )
        while True:
            for side, (project, _) in enumerate(self.workers if watch else []):
                served[side].update({pid: cpu([pid]) for pid in backends(project)})
            states = self.built.master.run(_STATE.replace("city", cqrs_id))
            if states and states[0]["round"] not in earlier and done(states[0]):
                break
            if time.monotonic() - began > 100:
                raise TimeoutError(f"{name}: {states}")
            tick = min(0.2, tick + 0.05)
            time.sleep(tick if watch else 1.0)
        seconds = time.monotonic() - began
        time.sleep(0.5)
        messages = self.built.broker.take_all(tap)
        sides = {}
        for i, side_name in enumerate(("master", "replica")):
            database = sum(max(0.0, used - idle[i].get(pid, 0.0)) for pid, used in served[i].items())
            sides[side_name] = {
                "worker_cpu_s": round(cpu(pids[i]) - before[i], 2), "database_cpu_s": round(database, 2),
                "rss_growth_mb": round((memory(pids[i], "VmHWM") - first[i]) / 1024, 1),
            }  # fmt: skip
        notes = [body for task, body in messages if not task.endswith("cqrs_apply")]
        applied = [body for task, body in messages if task.endswith("cqrs_apply")]
        changes = [change for body in applied for change in decode_message(body)]
        return {
            "round": name, "rows": self.rows, "seconds": round(seconds, 2), "notes_bytes": sum(map(len, notes)),
            "changes": len(changes), "changes_bytes": sum(map(len, applied)), **sides,
        }  # fmt: skip

    def change(self, sql: list[str]) -> None:
        """Change the replica past everything."""
        self.built.search.run(
            "with connection.cursor() as cursor:\n    for text in sql:\n        cursor.execute(text)", sql=sql
        )

    def full_bytes(self) -> int:
        """Bytes of a full re-send, by those of some thousand rows."""
        sample = min(self.rows, 20_000)
        text = self.built.master.run(
            """
from io import StringIO
out = StringIO()
call_command("cqrs_sync", "--cqrs-id", "city", "--filter", '{"pk__lte": %d}' % sample, "--format", "json", stdout=out)
result = out.getvalue()
""",
            sample=sample,
        )
        return int(json.loads(text)["models"][0]["bytes"] * self.rows / sample)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--master", default="postgresql")
    parser.add_argument("--replica", default="postgresql")
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    for record in measure(options):
        print(json.dumps(record), flush=True)


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds, one after the other."""
    rows = options.rows
    engines = {"shop": options.master, "search": options.replica}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        built = stack.enter_context(system(folder, engine=engines, broker="rabbitmq", replicas=("search",)))
        fill(built.master, "shop_city", rows)
        measured = Measure(built, rows)
        stack.callback(measured.close)
        harness.wait_until(lambda: built.search.run("result = Country.objects.count()"), "the country arrives")
        fill(built.search, "search_city", rows)

        def verified(state: dict[str, Any]) -> Any:
            return state["verified_at"] and state["verified_at"] >= state["started_at"]

        measured.round("warm up", cqrs_id="event", done=verified)
        measured.round("warm up", done=verified)
        yield measured.round("in sync", done=verified)

        saver = built.master.new_driver()
        stack.callback(saver.kill)
        saver.run(_SAVES, seconds=2)
        count, median, high = saver.run(_SAVES, seconds=options.seconds)
        saver.send(_SAVES, seconds=options.seconds)
        end, rounds = time.monotonic() + options.seconds, 0
        while time.monotonic() < end:
            measured.round("beside saves", done=verified, watch=False)
            rounds += 1
        beside, median_beside, high_beside = saver.answer()
        yield {
            "round": "saves meanwhile", "rounds": rounds, "saves": count, "median_ms": round(median, 2),
            "p95_ms": round(high, 2), "saves_beside": beside, "median_ms_beside": round(median_beside, 2),
            "p95_ms_beside": round(high_beside, 2), "ratio": round(median_beside / median, 2),
        }  # fmt: skip
        time.sleep(6)  # what was saved has to be older than what a round leaves out

        picks = [rows * n // 11 + 1 for n in range(1, 11)]
        measured.change([f"DELETE FROM search_city WHERE id = {pk}" for pk in picks])

        def repaired(number: int) -> Callable[[dict[str, Any]], Any]:
            return lambda state: state["rows_repaired"] >= number

        few = measured.round("10 rows differ", done=repaired(10))
        yield few

        each = rows // 300
        names = ", ".join(_ROW)
        added = ", ".join(_ROW.values()).replace("seq", f"(id + {10 * rows})")
        measured.change(
            [
                f"UPDATE search_city SET cqrs_revision = 0, name = 'old' WHERE id % 300 = 7 AND id <= {rows}",
                f"DELETE FROM search_city WHERE id % 300 = 11 AND id <= {rows}",
                f"INSERT INTO search_city ({names}) SELECT {added} FROM search_city WHERE id % 300 = 13",
            ]
        )
        yield measured.round("1 % changed, removed or added", done=repaired(3 * each))
        whole = measured.full_bytes()
        share = (few["notes_bytes"] + few["changes_bytes"]) / whole
        yield {"round": "full re-send", "rows": rows, "changes_bytes": whole, "10 rows differ": round(share, 5)}


if __name__ == "__main__":
    main()
