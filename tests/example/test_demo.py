"""The demo itself, on fewer cities: what ``make demo`` runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest

from example_project import common
from tests import services

CITIES = 1500

looks_into_processes = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks for processes in /proc")


class Run:
    """A demo in a process of its own."""

    def __init__(self, directory, *arguments, **environment):
        inherited = {k: v for k, v in os.environ.items() if k not in ("BROKER_URL", "DATABASE_URL", "ONCE")}
        self.directory = directory
        self.output = directory / "output.txt"
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "example_project.demo", "--cities", str(CITIES), *arguments],
                cwd=common.ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env=inherited | {"DEMO_DIR": str(directory / "state")} | environment,
            )  # fmt: skip

    def text(self):
        return self.output.read_text()

    def wait_for(self, found, seconds=150):
        """Wait until ``found()`` gives something true, and return it."""
        deadline = time.monotonic() + seconds
        while not (answer := found()):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)
        return answer

    def end(self, seconds=150):
        """Wait for the end; the exit code."""
        return self.process.wait(seconds)

    def left_over(self):
        """Processes that still have a log of this run open."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if str(self.directory / "state") in os.readlink(f"/proc/{pid}/fd/1"):
                    found.append(int(pid))
            except OSError:
                continue
        return found

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)


@pytest.fixture
def run(tmp_path):
    started = []

    def start(*arguments, **environment):
        started.append(Run(tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def assert_all_equal(run):
    assert "All equal." in run.text(), run.text()
    assert re.search(r"city: verdict +equal +equal\n", run.text())
    assert re.search(r"country: rows equal to the master's +251 +251\n", run.text())
    assert re.search(r"open dead letters +0 +0\n", run.text())


def test_once(run):
    demo = run("--once")
    assert demo.end() == 0, demo.text()
    assert_all_equal(demo)


def test_once_on_rabbitmq_and_postgresql(run):
    services.require("rabbitmq", "postgresql")
    name = f"cqrs_demo_test_{os.getpid()}"
    demo = run(
        ONCE="1", DEMO_NAME=name, BROKER_URL=services.AMQP_URL, DATABASE_URL=services.POSTGRESQL_URL
    )
    assert demo.end() == 0, demo.text()
    assert_all_equal(demo)


@looks_into_processes
def test_it_stays_until_it_is_interrupted(run):
    demo = run()
    demo.wait_for(lambda: "stop them with Ctrl+C" in demo.text() and "curl http" in demo.text())
    assert_all_equal(demo)
    master, search, stats = re.findall(r"^  (?:master|search|stats) +(http\S+)", demo.text(), re.M)
    changed = json.load(urlopen(f"{master}city/2950159/", b"population=4000000"))

    def held(address):
        return json.load(urlopen(f"{address}city/2950159/"))

    demo.wait_for(lambda: all(held(a)["cqrs_revision"] == changed["cqrs_revision"] for a in (search, stats)))
    assert held(search) == changed
    assert held(stats) == {key: value for key, value in changed.items() if key in held(stats)}
    assert held(stats)["population"] == 4_000_000

    demo.process.send_signal(signal.SIGINT)
    assert demo.end(60) == 0, demo.text()
    assert not demo.left_over()


@looks_into_processes
def test_a_service_that_dies_ends_it(run):
    demo = run()
    log = demo.directory / "state" / "logs" / "search-worker.log"
    demo.wait_for(lambda: log.exists() and " ready." in log.read_text())
    (worker,) = [pid for pid in demo.left_over() if _is_first_of_its_session(pid) and _log_of(pid) == str(log)]
    os.kill(worker, signal.SIGKILL)
    assert demo.end(60) == 1
    assert "search worker ended with exit code -9. The end of" in demo.text()
    assert " ready." in demo.text()
    assert not demo.left_over()


def _log_of(pid):
    return os.readlink(f"/proc/{pid}/fd/1")


def _is_first_of_its_session(pid):
    return os.getsid(pid) == pid


def test_two_at_once_in_one_place(run):
    first = run()
    first.wait_for(lambda: "Logs:" in first.text())
    (first.directory / "second").mkdir()
    second = Run(first.directory / "second", "--once", DEMO_DIR=str(first.directory / "state"))
    assert second.end(60) == 1
    assert "Another demo is running" in second.text()


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("BROKER_URL", "amqp://127.0.0.1:1//"),
        ("BROKER_URL", "nonsense://"),
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1"),
        ("DATABASE_URL", "oracle://127.0.0.1"),
    ],
)
def test_a_server_that_cannot_be_used_is_named(run, variable, url):
    demo = run("--once", **{variable: url})
    assert demo.end(60) == 1
    assert f"The server that {variable} names cannot be used:" in demo.text()
    assert "Traceback" not in demo.text()
