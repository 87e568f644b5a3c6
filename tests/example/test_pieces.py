"""The pieces of the demo, each alone."""

import signal
import socket
import time

import pytest

from example_project import common, geonames
from example_project.demo import screen, servers
from example_project.demo.comparison import by_key, compare
from example_project.demo.processes import Died, Processes, python
from example_project.demo.story import Figures, is_level

ROW = {"id": 1, "name": "Berlin", "population": 3}


class TestComparison:
    def test_equal_rows(self):
        difference = compare({1: ROW}, {1: dict(ROW)}, None)
        assert not difference
        assert (difference.equal, str(difference)) == (1, "equal")

    def test_only_the_kept_fields_count(self):
        assert not compare({1: ROW}, {1: {"id": 1, "name": "Berlin"}}, {"id", "name"})

    @pytest.mark.parametrize(
        ("copy", "said"),
        [
            (ROW | {"population": 4}, "1 wrong (first: (1, 'population'))"),
            ({"id": 1, "name": "Berlin"}, "1 wrong (first: (1, 'population'))"),
            (ROW | {"more": None}, "1 wrong (first: (1, 'more'))"),
            (ROW | {"population": None}, "1 wrong (first: (1, 'population'))"),
        ],
        ids=["value", "field missing", "field too many", "null"],
    )
    def test_a_wrong_row_is_named_with_its_field(self, copy, said):
        difference = compare({1: ROW}, {1: copy}, None)
        assert difference
        assert str(difference) == said

    def test_missing_and_surplus_rows(self):
        difference = compare({1: ROW}, {2: ROW}, None)
        assert (difference.missing, difference.surplus, difference.equal) == ([1], [2], 0)
        assert str(difference) == "1 missing (first: 1), 1 too many (first: 2)"

    def test_keys(self):
        assert list(by_key("city", [{"id": 7}, {"id": 8}])) == [7, 8]
        assert list(by_key("country", [{"code": "DE"}])) == ["DE"]

    def test_an_open_dead_letter_is_not_good(self):
        differences = {"city": compare({1: ROW}, {1: ROW}, None)}
        assert Figures(differences=differences, letters={"resolved": 2, "superseded": 1}).is_good
        for status in ("pending", "waiting", "dead"):
            assert not Figures(differences=differences, letters={status: 1}).is_good


class TestIsLevel:
    MASTER = {
        "rows": {"country": {"count": 1, "revisions": 2}, "city": {"count": 3, "revisions": 4}},
        "outbox": {"1": 9},
    }

    def test_level(self):
        assert is_level(self.MASTER, {"rows": self.MASTER["rows"]})

    def test_other_revisions(self):
        rows = self.MASTER["rows"] | {"city": {"count": 3, "revisions": 3}}
        assert not is_level(self.MASTER, {"rows": rows})

    def test_something_waits_in_the_outbox(self):
        assert not is_level(self.MASTER | {"outbox": {"0": 1}}, {"rows": self.MASTER["rows"]})


class TestDatabases:
    def test_postgresql(self):
        found = common.from_url("postgres://me:p%40ss@db:6000", "name")
        assert found["ENGINE"] == "django.db.backends.postgresql"
        assert {found[k] for k in ("NAME", "USER", "PASSWORD", "HOST", "PORT")} == {"name", "me", "p@ss", "db", "6000"}

    def test_defaults(self):
        found = common.from_url("postgresql://", "name")
        assert (found["HOST"], found["PORT"], found["USER"]) == ("127.0.0.1", "", "")

    def test_unknown_scheme(self):
        with pytest.raises(ValueError, match="'oracle'.*postgres"):
            common.from_url("oracle://db", "name")

    def test_each_service_has_its_own(self, monkeypatch):
        monkeypatch.delenv("DATABASE_URL", raising=False)
        files = {common.databases(service)["default"]["NAME"] for service in common.SERVICES}
        monkeypatch.setenv("DATABASE_URL", "postgres://db")
        names = {common.databases(service)["default"]["NAME"] for service in common.SERVICES}
        assert len(files) == len(names) == 3


class TestPlaces:
    def test_there_are_enough(self):
        codes = {country["code"] for country in geonames.countries()}
        assert len(codes) == 252
        assert geonames.city_count() >= 25_000
        assert {city["country_id"] for city in geonames.cities()} <= codes

    def test_a_limit_takes_the_most_populous(self):
        found = list(geonames.cities(3))
        assert len(found) == geonames.city_count(3) == 3
        assert found[0]["population"] >= found[1]["population"] >= found[2]["population"] > 10_000_000


class TestScreen:
    def test_bar(self):
        assert screen.bar(0, 1000) == f"[{'.' * 24}] 0/1,000"
        assert screen.bar(1500, 1500) == f"[{'#' * 24}] 1,500/1,500"
        assert "0/0" in screen.bar(0, 0)

    def test_table(self):
        assert screen.table([("", "a"), ("rows", "1,000")]) == " " * 13 + "a\n  rows   1,000"

    def test_live_line_into_a_pipe_keeps_the_last_state(self, capsys):
        line = screen.LiveLine()
        for text in ("first", "second", "third"):
            line.show(text)
        line.end()
        assert capsys.readouterr().out == "first\nthird\n"


class TestPorts:
    def test_a_taken_port_is_not_given(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert servers.free_port(port) != port
            assert servers.is_listening(port)

    def test_the_preferred_port_where_it_is_free(self):
        port = servers.free_port()
        assert servers.free_port(port) == port
        assert not servers.is_listening(port)


class TestProcesses:
    @pytest.fixture
    def processes(self, tmp_path):
        found = Processes(tmp_path, tmp_path, {"GREETING": "hello"})
        yield found
        found.stop(1)

    def test_work_that_ends_well(self, processes, monkeypatch):
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "others.settings")
        processes.begin("work", *python("-c", "import os; print(os.environ['GREETING'])"))
        processes.finish("work")
        assert processes.output_of("work") == "hello\n"
        assert "DJANGO_SETTINGS_MODULE" not in Processes(processes.root, processes.logs, {}).environment

    def test_work_that_fails_says_how(self, processes):
        processes.begin("hard work", *python("-c", "raise SystemExit('it broke')"))
        with pytest.raises(Died, match=r"(?s)hard work ended with exit code 1.*hard-work\.log.*it broke"):
            processes.finish("hard work")

    def test_work_that_does_not_end(self, processes):
        processes.begin("work", *python("-c", "import time; time.sleep(60)"))
        with pytest.raises(TimeoutError, match="work has not ended after"):
            processes.finish("work", seconds=0.2)

    def test_a_service_that_dies_is_named(self, processes):
        processes.start("search worker", *python("-c", "print('last words'); raise SystemExit(3)"))
        deadline = time.monotonic() + 20
        with pytest.raises(Died, match="(?s)search worker ended with exit code 3.*last words"):
            while time.monotonic() < deadline:
                processes.check()
                time.sleep(0.02)

    def test_one_that_does_not_stop_is_killed(self, processes):
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
        processes.start("stubborn", *python("-c", code))
        process = processes.running["stubborn"]
        deadline = time.monotonic() + 20
        while "ready" not in processes.output_of("stubborn") and time.monotonic() < deadline:
            time.sleep(0.02)
        processes.stop(0.3)
        assert process.returncode == -signal.SIGKILL
        assert not processes.running
