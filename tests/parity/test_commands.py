"""The commands, with the options that they have in django-cqrs."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import autoreload

from django_cqrs_celery import dispatcher, topology
from django_cqrs_celery.models import DeadLetter
from django_cqrs_celery.tasks import cqrs_apply
from tests import network
from tests.parity.masters import models as master
from tests.parity.mixed import change
from tests.parity.replicas import models as replica


class Wire(network.Network):
    """Takes the place of the publisher that a command opens."""

    def close(self):
        pass


@pytest.fixture
def wire(monkeypatch, net):
    wire = Wire()
    monkeypatch.setattr(dispatcher, "Publisher", lambda: wire)
    return wire


def run(*words):
    out = StringIO()
    call_command(*words, stdout=out, stderr=StringIO())
    return out.getvalue()


def vehicles(model):
    return sorted(model.objects.values_list("pk", "name"))


def fill(net, count=5):
    rows = [master.Vehicle.objects.create(name=f"v{number}") for number in range(count)]
    net.run(strict=True)
    return rows


class TestConsume:
    @pytest.fixture
    def started(self, monkeypatch):
        """The command lines with which Celery's worker was started."""
        lines = []

        class App:
            def worker_main(self, arguments):
                lines.append(arguments)

        monkeypatch.setattr(topology, "celery_app", App)
        monkeypatch.setattr(topology, "_bound_only", [])
        return lines

    def test_worker(self, started, settings):
        """cqrs_consume"""
        run("cqrs_consume", "-w", "3")
        run("cqrs_consume", "--workers=2", "-cid", "parity.account", "parity.vehicle")
        first, second = (" ".join(line) for line in started)
        assert f"worker --queues {settings.CQRS['queue']} --concurrency 3" in first
        assert "--concurrency 2" in second
        assert topology._bound_only == ["parity.account", "parity.vehicle"]
        with pytest.raises(CommandError, match=r"nobody \(known: .*parity.account"):
            run("cqrs_consume", "--cqrs-id", "nobody")

    def test_reload(self, started, monkeypatch):
        """cqrs_consume"""
        monkeypatch.setattr(autoreload, "run_with_reloader", lambda work, *args: work(*args))
        try:
            run("cqrs_consume", "-r", "--ignore-paths", "env,node_modules", "docs")
            run("cqrs_consume", "--reload")
            assert len(started) == 2
            for folder, ignored in (("env/x.py", True), ("docs", True), ("environment/x.py", False)):
                answers = autoreload.file_changed.send(sender=None, file_path=Path(folder).resolve())
                assert any(answer is True for _, answer in answers) == ignored
        finally:
            autoreload.file_changed.disconnect(dispatch_uid="django_cqrs_celery.cqrs_consume")


def test_sync(wire):
    """cqrs_sync"""
    rows = fill(wire)
    replica.Vehicle.objects.update(name="drifted")
    chosen = json.dumps({"pk__in": [rows[0].pk]})
    run("cqrs_sync", "-cid", "parity.vehicle", "-f", chosen, "-q", "one", "-b", "2", "-p")
    assert [(message.queue, message.changes) for message in wire.messages] == [("one", 1)]
    run("cqrs_sync", "--cqrs-id=parity.vehicle", "--filter={}", "--batch=2", "--progress")
    assert [message.changes for message in wire.messages[1:]] == [2, 2, 1]
    wire.deliver()
    assert vehicles(replica.Vehicle) == vehicles(master.Vehicle)


@pytest.fixture
def dump(net, tmp_path):
    fill(net)
    file = tmp_path / "vehicles.dump"
    run("cqrs_bulk_dump", "-c", "parity.vehicle", "-o", str(file))
    return file


def test_bulk_dump(dump, capsys):
    """cqrs_bulk_dump"""
    with pytest.raises(CommandError, match="--force"):
        run("cqrs_bulk_dump", "--cqrs-id=parity.vehicle", f"--output={dump}")
    written = dump.read_text()
    run("cqrs_bulk_dump", "-c", "parity.vehicle", "-o", str(dump), "-b", "2", "-p", "-f")
    assert sorted(dump.read_text().splitlines()[1:]) == sorted(written.splitlines()[1:])
    shown = run("cqrs_bulk_dump", "-c", "parity.vehicle", "-o", "-") or capsys.readouterr().out
    assert all(f"v{number}" in shown for number in range(5))


def test_bulk_load(dump, monkeypatch):
    """cqrs_bulk_load"""
    replica.Vehicle.objects.all().delete()
    replica.Vehicle.objects.create(id=99, name="old", cqrs_revision=0, cqrs_updated="2026-01-31T12:00:00Z")
    run("cqrs_bulk_load", "-i", str(dump), "-b", "2")
    assert len(vehicles(replica.Vehicle)) == 6
    run("cqrs_bulk_load", f"--input={dump}", "--clear=yes", "--batch=2")
    assert vehicles(replica.Vehicle) == vehicles(master.Vehicle)
    replica.Vehicle.objects.all().delete()
    with dump.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        run("cqrs_bulk_load", "-i", "-", "-c")
    assert vehicles(replica.Vehicle) == vehicles(master.Vehicle)


@pytest.fixture
def pipe(monkeypatch):
    """Run commands one after the other, each on what the one before has printed; the outputs of all of them."""

    def run_all(*commands):
        printed = [""]
        for words in commands:
            monkeypatch.setattr("sys.stdin", StringIO(printed[-1]))
            printed.append(run(*words))
        return printed[1:]

    return run_all


class TestDiff:
    """Rows that are missing or older on the replica."""

    @pytest.fixture
    def printed(self, wire, pipe):
        rows = fill(wire)
        replica.Vehicle.objects.filter(pk=rows[0].pk).delete()
        replica.Vehicle.objects.filter(pk=rows[1].pk).update(name="older", cqrs_revision=-1)
        chosen = json.dumps({"pk__lt": rows[4].pk})
        return pipe(
            ("cqrs_diff_master", "--cqrs-id", "parity.vehicle", "--filter", chosen, "--batch", "2"),
            ("cqrs_diff_replica",),
            ("cqrs_diff_sync", "--batch", "1", "--progress"),
        )

    def test_master(self, printed):
        """cqrs_diff_master"""
        assert "parity.vehicle" in printed[0].splitlines()[0]
        assert len(printed[0].splitlines()) == 3  # the head, and batches of two of the four rows that were chosen

    def test_replica(self, printed):
        """cqrs_diff_replica"""
        listed = [pk for line in printed[1].splitlines()[1:] for pk in json.loads(line)]
        assert sorted(listed) == sorted(master.Vehicle.objects.order_by("pk").values_list("pk", flat=True)[:2])

    def test_sync(self, printed, wire):
        """cqrs_diff_sync"""
        assert sum(message.changes for message in wire.messages) == 2
        wire.deliver()
        assert vehicles(replica.Vehicle) == vehicles(master.Vehicle)


class TestDeletedDiff:
    """Rows that are on the replica alone."""

    @pytest.fixture
    def printed(self, wire, pipe):
        fill(wire)
        replica.Vehicle.objects.create(id=900, name="left over", cqrs_revision=0, cqrs_updated="2026-01-31T12:00:00Z")
        return pipe(
            ("cqrs_deleted_diff_replica", "--cqrs-id", "parity.vehicle", "--filter", '{"pk__gt": 2}', "--batch", "2"),
            ("cqrs_deleted_diff_master",),
            ("cqrs_deleted_sync_replica",),
        )

    def test_replica(self, printed):
        """cqrs_deleted_diff_replica"""
        assert "parity.vehicle" in printed[0].splitlines()[0]

    def test_master(self, printed):
        """cqrs_deleted_diff_master"""
        assert "900" in "".join(printed[1].splitlines()[1:])

    def test_sync(self, printed):
        """cqrs_deleted_sync_replica"""
        assert vehicles(replica.Vehicle) == vehicles(master.Vehicle)


def test_dead_letters(net):
    """cqrs_dead_letters dump | retry | purge"""
    replica.Account.fails_with.append(ValueError("no"))
    data = {"name": "n", "status": "s", "owner": None}
    for pk in (1, 2):
        cqrs_apply(changes=[change("parity.account", pk, 0, data={"id": pk, **data}, retries=1)])
    cqrs_apply(changes=[b"no change"])
    (line,) = run("cqrs_dead_letters", "dump", "--cqrs-id", "parity.account", "--pk", "1").splitlines()
    assert json.loads(line)["instance_pk"] == 1
    assert run("cqrs_dead_letters", "dump", "--since", "2100-01-01") == ""
    replica.Account.fails_with.clear()
    run("cqrs_dead_letters", "retry", "--cqrs-id", "parity.account", "--pk", "1", "--since", "2020-01-01")
    assert list(replica.Account.objects.values_list("pk", flat=True)) == [1]
    assert sorted(DeadLetter.objects.values_list("instance_pk", "status")) == [
        ("", "dead"), ("1", "resolved"), ("2", "dead"),
    ]  # fmt: skip
    run("cqrs_dead_letters", "purge")
    assert not DeadLetter.objects.exists()
