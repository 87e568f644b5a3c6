"""``cqrs_sync``, ``cqrs_bulk_dump`` and ``cqrs_bulk_load`` on every engine."""

from __future__ import annotations

import gzip
import io
import json
import sys

import pytest
from django.core.management import CommandError, call_command
from django.db.models import QuerySet
from django.utils import timezone

from django_cqrs_celery import dispatcher, tasks
from django_cqrs_celery.models import DeadLetter
from tests import network, routing
from tests.master_app import models as master
from tests.replica_app import models as replica


class Wire(network.Network):
    """Takes the place of the publisher that a command opens."""

    def close(self):
        pass


@pytest.fixture
def wire(monkeypatch, transactional_db):
    wire = Wire()
    monkeypatch.setattr(dispatcher, "Publisher", lambda: wire)
    return wire


def authors(model):
    return list(model.objects.order_by("pk").values_list("pk", "name", "email", "cqrs_revision"))


def fill(count=25):
    return master.Author.cqrs.bulk_create(
        [master.Author(name=f"n{n}", email=f"{n}@example.com") for n in range(count)]
    )


@pytest.mark.usefixtures("engine")
class TestSync:
    def test_all_rows_in_chunks(self, wire):
        fill()
        call_command("cqrs_sync", "--cqrs-id", "author", "--batch", "10")
        assert [message.changes for message in wire.messages] == [10, 10, 5]
        wire.deliver()
        assert authors(replica.Author) == authors(master.Author)

    def test_filter_and_queue(self, wire):
        rows = fill()
        call_command("cqrs_sync", "-cid", "author", "-f", json.dumps({"pk__in": [rows[0].pk]}), "-q", "one")
        assert [(m.queue, m.changes) for m in wire.messages] == [("one", 1)]

    def test_repairs_a_row_of_the_same_revision(self, wire):
        fill(2)
        wire.run()
        replica.Author.objects.update(name="drifted")
        tasks.cqrs_sync(cqrs_id="author", mode="full")
        wire.deliver()
        assert authors(replica.Author) == authors(master.Author)

    def test_wins_over_a_newer_row_only_by_force(self, wire):
        fill(1)
        wire.run()
        replica.Author.objects.update(name="from the future", cqrs_revision=9)
        call_command("cqrs_sync", "--cqrs-id", "author")
        wire.deliver()
        assert replica.Author.objects.get().cqrs_revision == 9
        call_command("cqrs_sync", "--cqrs-id", "author", "--force")
        wire.deliver()
        assert authors(replica.Author) == authors(master.Author)


@pytest.mark.usefixtures("engine")
class TestDump:
    @pytest.mark.parametrize("name", ["author.dump", "author.dump.gz"])
    def test_there_and_back(self, wire, tmp_path, name):
        fill()
        path = str(tmp_path / name)
        call_command("cqrs_bulk_dump", "-c", "author", "-o", path, "-b", "10")
        call_command("cqrs_bulk_load", "-i", path, "-b", "10")
        assert authors(replica.Author) == authors(master.Author)

    def test_clear(self, wire, tmp_path):
        fill(3)
        path = str(tmp_path / "dump")
        call_command("cqrs_bulk_dump", "-c", "author", "-o", path)
        replica.Author.objects.create(id=999, name="extra", cqrs_revision=0, cqrs_updated="2024-01-01T00:00:00Z")
        call_command("cqrs_bulk_load", "-i", path, "--clear=no")
        assert replica.Author.objects.filter(pk=999).exists()
        call_command("cqrs_bulk_load", "-i", path, "--clear")
        assert authors(replica.Author) == authors(master.Author)

    def test_bad_line_is_named_and_the_others_land(self, wire, tmp_path):
        fill(5)
        path = tmp_path / "dump"
        call_command("cqrs_bulk_dump", "-c", "author", "-o", str(path))
        lines = path.read_text().splitlines()
        lines[2] = "{ this is no JSON"
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(CommandError, match="1 lines"):
            call_command("cqrs_bulk_load", "-i", str(path))
        assert replica.Author.objects.count() == 4

    def test_truncated_dump_is_noticed(self, wire, tmp_path):
        fill(5)
        path = tmp_path / "dump"
        call_command("cqrs_bulk_dump", "-c", "author", "-o", str(path))
        path.write_text("\n".join(path.read_text().splitlines()[:-2]) + "\n")
        with pytest.raises(CommandError, match="cut short"):
            call_command("cqrs_bulk_load", "-i", str(path))

    def test_compressed_dump_that_is_cut_is_loaded_up_to_there(self, wire, tmp_path):
        fill(5000)
        path = tmp_path / "dump.gz"
        call_command("cqrs_bulk_dump", "-c", "author", "-o", str(path))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(CommandError, match="cut short"):
            call_command("cqrs_bulk_load", "-i", str(path), "-b", "100")
        assert 0 < replica.Author.objects.count() < 5000

    @pytest.mark.parametrize("options", [(), ("--gzip",)])
    def test_through_a_pipe(self, wire, tmp_path, monkeypatch, options):
        fill(5)
        pipe = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(sys, "stdout", pipe)
        call_command("cqrs_bulk_dump", "-c", "author", "-o", "-", *options)
        monkeypatch.undo()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pipe.buffer.getvalue())))
        call_command("cqrs_bulk_load", "-i", "-")
        assert authors(replica.Author) == authors(master.Author)

    def test_rows_that_break_a_rule_are_named_and_the_others_land(self, wire, tmp_path, capsys):
        fill(5)
        path = str(tmp_path / "dump")
        call_command("cqrs_bulk_dump", "-c", "author", "-o", path)
        stamps = {"cqrs_revision": 0, "cqrs_updated": timezone.now()}
        replica.Author.objects.create(id=99, name="x", email="3@example.com", **stamps)
        with pytest.raises(CommandError, match="1 lines"):
            call_command("cqrs_bulk_load", "-i", path)
        assert "line 5 was not loaded: IntegrityError" in capsys.readouterr().err
        assert replica.Author.objects.count() == 5
        assert not DeadLetter.objects.exists()

    def test_row_that_comes_before_its_parent_waits_for_it(self, wire, tmp_path):
        # 3 is the parent of 1, and comes in a later batch; 2 refers to a row of a dump that is loaded last.
        for pk in (3, 1, 2):
            master.Node.objects.create(pk=pk, name=str(pk), parent_id={1: 3}.get(pk))
        author = master.Author.objects.create(name="a")
        master.Book.objects.create(title="b", author=author)
        for cqrs_id in ("node", "book", "author"):
            call_command("cqrs_bulk_dump", "-c", cqrs_id, "-o", str(tmp_path / cqrs_id))
            call_command("cqrs_bulk_load", "-i", str(tmp_path / cqrs_id), "-b", "1")
        assert dict(replica.Node.objects.values_list("pk", "parent_id")) == {1: 3, 2: None, 3: None}
        assert replica.Book.objects.get().author_id == author.pk
        assert not DeadLetter.objects.open().exists()

    def test_changes_that_came_meanwhile_stay(self, wire, tmp_path):
        fill(4)
        wire.run()
        path = str(tmp_path / "dump")
        first, second, third, _ = master.Author.objects.order_by("pk")
        master.Author.objects.filter(pk=third.pk).update(name="changed, then deleted")
        call_command("cqrs_bulk_dump", "-c", "author", "-o", path)
        first.name = "newer than the dump"
        first.save()
        second.delete()
        third.delete()
        third = master.Author.objects.create(pk=third.pk, name="created again")
        wire.run()
        replica.Author.objects.filter(pk=first.pk + 3).update(name="drifted")
        call_command("cqrs_bulk_load", "-i", path)
        assert authors(replica.Author) == authors(master.Author)

    def test_row_that_took_the_key_of_a_deleted_one_goes_out_above_it(self, wire, tmp_path):
        [author] = fill(1)
        for _ in range(3):
            author.save()
        author.delete()
        wire.run()
        # Written past the ORM: its revision begins anew.
        rows = QuerySet(master.Author, using=routing.current["master"])
        rows.bulk_create([master.Author(pk=author.pk, name="raw", cqrs_revision=0, cqrs_updated=timezone.now())])
        call_command("cqrs_bulk_dump", "-c", "author", "-o", str(tmp_path / "dump"))
        call_command("cqrs_bulk_load", "-i", str(tmp_path / "dump"))
        assert authors(replica.Author) == authors(master.Author)
        assert replica.Author.objects.get().name == "raw"


def test_image_without_its_key_has_it_beside_it(wire, tmp_path, monkeypatch):
    monkeypatch.setattr(master.Author, "to_cqrs_dict", _unlike_the_columns)
    fill(3)
    path = tmp_path / "dump"
    call_command("cqrs_bulk_dump", "-c", "author", "-o", str(path))
    first = json.loads(path.read_text().splitlines()[1])
    assert first[0] == master.Author.objects.first().pk and "id" not in first[1]


def _unlike_the_columns(self, using=None, sync=False):
    return {"name": self.name, "cqrs_revision": self.cqrs_revision}


def test_refuses_what_it_cannot_use(transactional_db, tmp_path):
    for arguments in (
        ("cqrs_sync", "--cqrs-id", "nobody"),
        ("cqrs_sync", "--cqrs-id", "author", "--filter", "no json"),
        ("cqrs_sync", "--cqrs-id", "author", "--filter", '{"nothing": 1}'),
        ("cqrs_sync", "--filter", '{"pk": 1}'),
        ("cqrs_sync", "--cqrs-id", "author", "--batch", "0"),
        ("cqrs_bulk_dump", "-c", "nobody", "-o", str(tmp_path / "x")),
        ("cqrs_bulk_load", "-i", str(tmp_path / "missing")),
        ("cqrs_bulk_load", "-i", __file__),
    ):
        with pytest.raises(CommandError):
            call_command(*arguments)
    path = tmp_path / "there"
    path.write_text("")
    with pytest.raises(CommandError, match="--force"):
        call_command("cqrs_bulk_dump", "-c", "author", "-o", str(path))
    with gzip.open(tmp_path / "new.gz", "wt") as stream:
        stream.write('{"cqrs_dump": 99, "cqrs_id": "author"}\n')
    with pytest.raises(CommandError, match="format 99"):
        call_command("cqrs_bulk_load", "-i", str(tmp_path / "new.gz"))
