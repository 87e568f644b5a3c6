"""Two processes share the tests: one system of real processes at a time, and nothing is left out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.lanes import ROOT, SYSTEMS, OneSystemAtATime, unit_of


class Node:
    """A process that runs tests: what it was given and has not run yet, by number."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.given: list[int] = []

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.given += numbers

    def shutdown(self) -> None:
        self.shutting_down = True


def share(tests: list[str]) -> list[set[str]]:
    """Let two processes share the tests, one test each in turn; returns what ran at the same time, as units."""
    option = SimpleNamespace(loadscopereorder=True)
    scheduler = OneSystemAtATime(SimpleNamespace(getvalue=lambda name: ["2*popen"], option=option))
    nodes = [Node("gw0"), Node("gw1")]
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    together, done = [], []
    while any(node.given for node in nodes):
        running = [(node, node.given.pop(0)) for node in nodes if node.given]
        together.append({unit_of(tests[number]) for _, number in running})
        for node, number in running:
            done.append(tests[number])
            scheduler.mark_test_complete(node, number)
    assert sorted(done) == sorted(tests) and all(node.shutting_down for node in nodes)
    return together


def some_of(path: str, count: int) -> list[str]:
    return [f"{path}::test_{number}" for number in range(count)]


SYSTEM_TESTS = [
    *some_of("tests/chaos/test_chaos.py", 9), *some_of("tests/integration/test_flow.py", 20),
    *some_of("tests/integration/test_deadly.py", 2), *some_of("tests/integration/test_topology.py", 3),
]  # fmt: skip
OTHERS = [test for number in range(12) for test in some_of(f"tests/test_{number}.py", number + 1)]


@pytest.mark.parametrize("tests", [SYSTEM_TESTS + OTHERS, OTHERS + SYSTEM_TESTS])
def test_one_system_runs_at_a_time_and_something_beside_it(tests):
    together = share(tests)
    assert [units for units in together if len(units & set(SYSTEMS)) > 1] == []
    assert len(together) < 0.6 * len(tests)


def test_in_the_end_systems_share_what_is_left():
    assert len(share(SYSTEM_TESTS + OTHERS[:3])) < len(SYSTEM_TESTS)


def test_a_run_of_one_file_alone():
    assert share(some_of("tests/test_1.py", 3)) == [{"tests/test_1.py"}] * 3


def test_a_system_goes_to_one_process():
    assert unit_of("tests/integration/test_deadly.py::test_a") == unit_of("tests/integration/test_topology.py::test_b")
    assert unit_of("tests/test_flow.py::TestA::test_b[tests/chaos/]") == "tests/test_flow.py"


@pytest.mark.parametrize("unit", SYSTEMS)
def test_systems_are_where_they_are_said_to_be(unit):
    assert list(ROOT.glob(f"{unit}*"))
