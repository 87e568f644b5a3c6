"""Digests find what differs, and repairs send exactly that: on every engine, for every kind of key."""

from __future__ import annotations

import datetime
import json
import threading
import time
import uuid
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.db.models import QuerySet
from django.utils import timezone

from django_cqrs_celery import burials, digest_sql, digests, dispatcher, rounds, syncing, tasks
from django_cqrs_celery.constants import SyncMode
from django_cqrs_celery.exceptions import ConfigurationError, DecodeError, UnknownCQRSId
from django_cqrs_celery.models import DeadLetter, OutboxMessage, SyncState, Tombstone
from tests import routing, services, unseen
from tests.conftest import use_pair
from tests.healing import Wire
from tests.master_app import models as master
from tests.replica_app import models as replica

LONG_AGO = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
PAIRS = [
    ("sqlite", "sqlite"), ("postgresql", "postgresql"), ("mariadb", "mariadb"), ("postgresql", "mariadb"),
    ("postgresql", "sqlite"), ("mariadb", "postgresql"), ("sqlite", "mariadb"),
]  # fmt: skip
if services.BY_TRIGGER:
    PAIRS = PAIRS[:3]  # the replica's engine has no say in what the master's triggers capture


@pytest.fixture
def wire(monkeypatch, transactional_db):
    wire = Wire()
    monkeypatch.setattr(dispatcher, "Publisher", lambda: wire)
    return wire


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request, transactional_db):
    """Every two engines that matter."""
    use_pair(*request.param)
    return request.param


def age(*models):
    """Let rows look as if nothing had happened to them for long."""
    for model in models:
        QuerySet(model, using=model.objects.db).update(cqrs_updated=LONG_AGO)  # does not travel, and is not captured


def fill(wire, count=30):
    authors = [master.Author(name=f"n{n}", email=f"{n}@example.com") for n in range(count)]
    master.Author.cqrs.bulk_create(authors)
    wire.run(strict=True)
    age(master.Author, replica.Author)
    return list(master.Author.objects.order_by("pk"))


def heal(wire, **options):
    wire.using = routing.current["master"]
    syncing.run([options.pop("cqrs_id", "author")], syncing.Wanted(mode=SyncMode.DIGEST, **options))
    return sorted(wire.settle(), key=str)


def state(cqrs_id="author"):
    return SyncState.objects.get(cqrs_id=cqrs_id, queue="cqrs_tests", mode="digest")


def authors(model):
    return list(model.objects.order_by("pk").values_list("pk", "name", "email", "rating", "cqrs_revision"))


class TestRounds:
    def test_in_sync(self, wire, pair):
        fill(wire)
        assert heal(wire) == []
        assert (state().rows_compared, state().rows_repaired) == (30, 0)
        assert state().verified_at is not None

    def test_exactly_what_differs_is_sent(self, wire, pair):
        rows = fill(wire, 1200)
        older, gone = rows[3], rows[700]
        replica.Author.objects.filter(pk=older.pk).update(cqrs_revision=0, name="old")
        unseen.update(master.Author, {"cqrs_revision": 2}, pk=older.pk)
        replica.Author.objects.filter(pk=gone.pk).delete()
        replica.Author.objects.create(id=10**7, name="extra", cqrs_revision=4, cqrs_updated=LONG_AGO)
        assert heal(wire) == sorted([("DELETE", 10**7), ("SYNC", older.pk), ("SYNC", gone.pk)], key=str)
        assert authors(replica.Author) == authors(master.Author)
        assert (state().rows_repaired, state().rows_deleted) == (3, 1)
        assert heal(wire) == []
        assert state().verified_at is not None

    def test_a_delete_that_was_lost(self, wire, pair):
        rows = fill(wire)
        pk = rows[0].pk
        rows[0].delete()
        wire.pump()
        wire.messages.clear()
        assert heal(wire) == [("DELETE", pk)]
        again = master.Author.objects.create(pk=pk, name="again")
        wire.run()
        assert authors(replica.Author) == authors(master.Author)
        again.refresh_from_db()
        assert again.cqrs_revision > rows[0].cqrs_revision + 1

    @pytest.mark.parametrize("kind", ["ticket", "country", "note"])
    def test_kinds_of_keys(self, wire, pair, kind):
        made = {
            "ticket": lambda n: master.Ticket(code=uuid.uuid5(uuid.NAMESPACE_OID, str(n)), title=f"t{n}"),
            "country": lambda n: master.Country(iso=["Ä", "a", "B", "ß", "_", " x", "日"][n % 7] + str(n), name="c"),
            "note": lambda n: master.Note(pk=n * 10**6 - 2_500_000, text="n"),
        }  # fmt: skip
        ours, theirs = getattr(master, kind.title()), getattr(replica, kind.title())
        ours.cqrs.bulk_create([made[kind](n) for n in range(1, 40)])
        wire.run(strict=True)
        age(ours, theirs)
        assert heal(wire, cqrs_id=kind) == []
        key = ours._meta.pk.name
        first, second = (getattr(row, key) for row in ours.objects.order_by("pk")[:2])
        theirs.objects.filter(pk=first).delete()
        unseen.delete(ours, pk=second)
        sent = heal(wire, cqrs_id=kind)
        assert [signal for signal, _ in sent] == ["DELETE", "SYNC"]
        mine, yours = ours.objects.values_list("pk"), theirs.objects.values_list("pk")
        assert sorted(map(repr, mine)) == sorted(map(repr, yours))
        assert heal(wire, cqrs_id=kind) == []

    def test_what_is_on_its_way_is_no_difference(self, wire, pair):
        rows = fill(wire)
        master.Author.objects.create(name="new")
        rows[0].name = "changed"
        rows[0].save()
        wire.pump()
        waiting, wire.messages = wire.messages, []
        heal(wire)
        assert state().rows_deleted == 0
        wire.messages = waiting
        wire.deliver()
        assert authors(replica.Author) == authors(master.Author)

    def test_recent_changes_that_have_landed_are_no_difference(self, wire, pair):
        rows = fill(wire)
        syncing.run(["author"], syncing.Wanted(mode=SyncMode.DIGEST))
        rows[0].name = "changed meanwhile"
        rows[0].save()
        master.Author.objects.create(name="new meanwhile")
        wire.run()
        assert wire.settle() == []
        assert state().verified_at is not None and wire.notes == []


@pytest.mark.usefixtures("engine")
class TestContent:
    @pytest.mark.parametrize("side", [master, replica])
    def test_raw_sql_on_either_side(self, wire, side):
        rows = fill(wire)
        connection = connections[routing.current["master" if side is master else "replica"]]
        with unseen.writes(side.Author), connection.cursor() as cursor:
            cursor.execute(f"UPDATE {side.Author._meta.db_table} SET rating = 5 WHERE id = %s", [rows[4].pk])
        assert heal(wire) == []
        assert heal(wire, content=True) == [("SYNC", rows[4].pk)]
        assert authors(replica.Author) == authors(master.Author)
        assert heal(wire, content=True) == []

    def test_only_what_the_replica_keeps(self, wire):
        master.Country.objects.create(iso="NL", name="n", secret="x")
        wire.run()
        age(master.Country, replica.Country)
        unseen.update(master.Country, {"secret": "y"})
        assert heal(wire, cqrs_id="country", content=True) == []
        unseen.update(master.Country, {"name": "z"})
        assert heal(wire, cqrs_id="country", content=True) == [("SYNC", "NL")]

    def test_unknown_field(self, wire):
        with pytest.raises(ConfigurationError, match="nothing"):
            heal(wire, content=["nothing"])


@pytest.mark.usefixtures("engine")
class TestDeletes:
    def test_guard(self, wire):
        rows = fill(wire, 20)
        unseen.delete(master.Author, pk__in=[row.pk for row in rows[:10]])
        assert heal(wire) == []
        assert state().guarded and state().rows_held_back == 10 and "max_delete_share" in state().message
        assert heal(wire, max_deletes=1.0) == sorted((("DELETE", row.pk) for row in rows[:10]), key=str)
        assert authors(replica.Author) == authors(master.Author)
        heal(wire)
        assert not state().guarded and state().message is None

    def test_a_late_answer_after_a_later_round_has_begun_is_acted_upon(self, wire):
        rows = fill(wire, 20)
        unseen.delete(master.Author, pk=rows[0].pk)
        wire.using = routing.current["master"]
        wanted = syncing.Wanted(mode=SyncMode.DIGEST)
        syncing.run(["author"], wanted)
        for _ in range(3):  # digest, buckets, listing; what the listing found out is on its way
            wire.step()
        syncing.run(["author"], wanted)
        late, later = wire.notes
        wire.notes[:] = [later]
        wire.step()
        wire.notes.append(late)
        assert set(wire.settle()) == {("DELETE", rows[0].pk)}
        assert not state().guarded and replica.Author.objects.count() == 19

    def test_guard_where_as_many_are_missing(self, wire):
        rows = fill(wire, 20)
        for row in rows[:10]:
            unseen.update(master.Author, {"id": row.pk + 1000}, pk=row.pk)
        assert not any(signal == "DELETE" for signal, _ in heal(wire))
        assert state().guarded
        assert not any(signal == "DELETE" for signal, _ in heal(wire))

    def test_a_row_that_left_the_filter(self, wire, monkeypatch):
        rows = fill(wire, 10)
        monkeypatch.setattr(master.Author, "is_sync_instance", lambda self: self.name != "secret")
        unseen.update(master.Author, {"name": "secret"}, pk=rows[2].pk)
        assert heal(wire) == [("DELETE", rows[2].pk)]
        assert not replica.Author.objects.filter(pk=rows[2].pk).exists()
        assert heal(wire) == []
        back = master.Author.objects.get(pk=rows[2].pk)
        back.name = "public"
        back.save()
        wire.run()
        assert authors(replica.Author) == authors(master.Author)

    @pytest.mark.parametrize("engine", ["postgresql", "mariadb"], indirect=True)  # SQLite has one writer at a time
    def test_a_row_that_is_being_created(self, wire, engine):
        """The delete has decided that there is no row, and the row's transaction commits only then."""
        fill(wire, 10)
        replica.Author.objects.create(id=5000, name="left over", cqrs_revision=7, cqrs_updated=LONG_AGO)
        inserted, go_on = threading.Event(), threading.Event()

        def create():
            try:
                with transaction.atomic(using=routing.current["master"]):
                    master.Author.objects.create(pk=5000, name="new")
                    inserted.set()
                    assert go_on.wait(20)
            finally:
                connections.close_all()

        creator = threading.Thread(target=create)
        creator.start()
        assert inserted.wait(20)
        original = burials.Burial._write_tombstones

        def written(self, gone):
            threading.Timer(0.5, go_on.set).start()
            return original(self, gone)

        burials.Burial._write_tombstones = written
        try:
            sent = heal(wire)
        finally:
            burials.Burial._write_tombstones = original
            go_on.set()
            creator.join()
        assert "DELETE" not in [signal for signal, _ in sent] and state().rows_deleted == 0
        wire.run()
        assert authors(replica.Author) == authors(master.Author)
        assert replica.Author.objects.get(pk=5000).name == "new"


@pytest.mark.usefixtures("engine")
class TestRestore:
    """The master is put back to an older state; what replicas have seen since is gone there."""

    def test_ahead_is_reported_and_forced(self, wire):
        rows = fill(wire, 10)
        changed, same, deleted = rows[:3]
        replica.Author.objects.filter(pk=changed.pk).update(cqrs_revision=6, name="future")
        replica.Author.objects.filter(pk=same.pk).update(name="another history")
        replica.Author.objects.filter(pk=deleted.pk).delete()
        Tombstone.objects.create(cqrs_id="author", instance_pk=str(deleted.pk), revision=9)
        replica.Author.objects.create(id=9000, name="from the future", cqrs_revision=3, cqrs_updated=LONG_AGO)
        assert heal(wire) == [("DELETE", 9000)]
        assert state().rows_ahead == 2 and "--force" in state().message
        forced = [("SYNC", row.pk) for row in (changed, same, deleted)]
        assert heal(wire, content=True, force=True) == sorted(forced, key=str)
        assert authors(replica.Author) == authors(master.Author)
        assert master.Author.objects.get(pk=changed.pk).cqrs_revision == 7
        assert heal(wire, content=True) == []
        assert state().rows_ahead == 0

    def test_forced_also_after_a_round_for_this_replica_alone(self, wire):
        """Such a round keeps its options where the replica's state is; they are not those of later rounds."""
        rows = fill(wire, 3)
        assert heal(wire, queue="cqrs_tests") == []
        replica.Author.objects.filter(pk=rows[0].pk).update(cqrs_revision=6, name="future")
        heal(wire, force=True)
        assert state().rows_ahead == 0
        assert authors(replica.Author) == authors(master.Author)

    def test_late_messages_of_the_lost_history_change_nothing(self, wire):
        rows = fill(wire, 3)
        rows[0].name = "lost"
        rows[0].save()
        wire.pump()
        lost = list(wire.messages)
        wire.deliver()
        wire.messages.clear()
        unseen.update(master.Author, {"name": "restored", "cqrs_revision": 0}, pk=rows[0].pk)
        age(master.Author, replica.Author)
        heal(wire, content=True, force=True)
        wire.messages = lost
        wire.deliver()
        assert authors(replica.Author) == authors(master.Author)


@pytest.mark.usefixtures("engine")
class TestUnderWay:
    """What beat starts waits for the answers of the round before."""

    def begin(self, wire, queue=None):
        wire.using = routing.current["master"]
        syncing.run(["author"], syncing.Wanted.of_task(None, queue=queue))
        return len(wire.notes)

    def test_the_next_round_begins_when_all_have_answered(self, wire):
        rows = fill(wire, 20)
        unseen.delete(replica.Author, pk=rows[0].pk)
        assert heal(wire) == [("SYNC", rows[0].pk)]  # the replica is known from now on
        unseen.delete(replica.Author, pk=rows[1].pk)
        assert self.begin(wire) == 1
        for _ in range(3):  # the digest is on its way, then the buckets, then the listing
            assert self.begin(wire) == 1
            wire.step()
        assert self.begin(wire) == 1
        assert wire.settle() == [("SYNC", rows[1].pk)]
        assert self.begin(wire) == 1
        assert wire.settle() == []

    def test_the_first_round_of_all_is_waited_for(self, wire):
        rows = fill(wire, 3)
        unseen.delete(replica.Author, pk=rows[0].pk)
        assert self.begin(wire) == 1
        assert self.begin(wire) == 1
        assert wire.settle() == [("SYNC", rows[0].pk)]

    def test_a_replica_that_does_not_answer_is_not_waited_for_for_long(self, wire):
        fill(wire, 3)
        assert heal(wire) == []
        assert self.begin(wire) == 1
        wire.notes.clear()
        assert self.begin(wire) == 0
        SyncState.objects.update(updated_at=timezone.now() - datetime.timedelta(seconds=rounds.PATIENCE + 1))
        assert self.begin(wire) == 1

    def test_a_person_is_not_kept_waiting(self, wire):
        fill(wire, 3)
        assert heal(wire) == []
        self.begin(wire)
        wire.notes.clear()
        assert heal(wire) == [] and state().verified_at


class TestKilled:
    def test_a_digest_goes_on(self, wire, monkeypatch):
        monkeypatch.setattr(digests, "CHUNK", 10)
        monkeypatch.setattr(digests, "CHUNK_BY_HAND", 10)
        monkeypatch.setattr("django_cqrs_celery.rounds.KEEP_SECONDS", 0)
        fill(wire, 35)
        from django_cqrs_celery import rounds

        steps = rounds.digest(master.Author)
        next(steps), next(steps)
        steps.close()
        assert SyncState.objects.running().get().done == 10
        rest = [step.rows for step in rounds.digest(master.Author, resume=True)]
        assert rest[0] == 20
        note = list(rounds.digest(master.Author))[-1].note
        assert not SyncState.objects.running().exists()
        assert note["counts"] and sum(note["counts"]) == 35

    def test_a_full_sync_goes_on(self, wire, monkeypatch):
        monkeypatch.setattr("django_cqrs_celery.rounds.KEEP_SECONDS", 0)
        fill(wire, 25)
        replica.Author.objects.all().delete()
        publish, left = wire.publish, [1]

        def killed(message):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            publish(message)

        monkeypatch.setattr(wire, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            call_command("cqrs_sync", "--cqrs-id", "author", "--batch", "10")
        monkeypatch.setattr(wire, "publish", publish)
        call_command("cqrs_sync", "--cqrs-id", "author", "--batch", "10", "--resume")
        assert [message.changes for message in wire.messages] == [10, 10, 5]
        wire.deliver()
        assert authors(replica.Author) == authors(master.Author)


@pytest.mark.usefixtures("engine")
class TestRefused:
    def test_what_a_replica_may_not_send(self, wire):
        for note in (
            {"kind": "run", "cqrs_id": "author", "queue": "q", "round": "r"},
            {"kind": "equal", "cqrs_id": "author", "queue": "q"},
            {"kind": "rows", "cqrs_id": "author", "queue": "q", "round": "r", "wanted": "all"},
            {"kind": "rows", "cqrs_id": "author", "queue": "q", "round": "r", "wanted": [], "extra": [[{}, 1]]},
            {"kind": "buckets", "cqrs_id": "author", "queue": "q", "round": "r", "scheme": {"algorithm": "other"}},
        ):
            with pytest.raises(DecodeError):
                tasks.cqrs_answer(**note)
        with pytest.raises(UnknownCQRSId):
            tasks.cqrs_answer(kind="equal", cqrs_id="nobody", queue="q", round="r")

    def test_a_digest_of_another_algorithm(self, wire):
        fill(wire, 1)
        syncing.run(["author"], syncing.Wanted(mode=SyncMode.DIGEST))
        wire.notes[0][1]["scheme"]["algorithm"] = "newer"
        wire.talk()
        assert "'newer'" in state().message and state().verified_at is None

    def test_a_row_that_waits_as_a_dead_letter_is_not_sent_again(self, wire):
        rows = fill(wire, 3)
        replica.Author.objects.filter(pk=rows[0].pk).delete()
        DeadLetter.objects.create(
            cqrs_id="author", instance_pk=str(rows[0].pk), revision=0, payload="{}", error_class="X", status="pending"
        )
        assert heal(wire) == []

    def test_what_does_not_go_together(self, wire):
        for wanted in (
            syncing.Wanted(mode=SyncMode.DIGEST, filters={"pk": 1}), syncing.Wanted(content=True),
            syncing.Wanted(max_deletes=1), syncing.Wanted(rate=0),
            syncing.Wanted(mode=SyncMode.DIGEST, max_deletes=2),
        ):  # fmt: skip
            with pytest.raises(ConfigurationError):
                syncing.run(["author"], wanted)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("model", [master.Author, master.Ticket, master.Country])
def test_the_database_computes_what_python_does(model, wire, monkeypatch):
    for n in range(30):
        row = model(pk={"author": n - 5 or 1000, "ticket": uuid.uuid4(), "country": f"é{n}"}[model.CQRS_ID])
        row.save()
    now = timezone.now()
    using = routing.current["master"]
    for scheme in (
        digests.Scheme(buckets=7), digests.choose_scheme(model, using, settle=-60),
        digests.Scheme(buckets=7, since=now + datetime.timedelta(1), until=now + datetime.timedelta(2)),
    ):  # fmt: skip
        in_sql = digests.Scan(model, using, scheme).run()
        with monkeypatch.context() as patch:
            patch.setattr(digest_sql, "for_model", lambda model, using: None)
            assert digests.Scan(model, using, scheme).run() == in_sql
        assert in_sql.rows == 30
    assert OutboxMessage.objects.exists()


@pytest.mark.usefixtures("engine")
class TestCommand:
    def run(self, *arguments):
        out = StringIO()
        call_command("cqrs_sync", "--cqrs-id", "author", *arguments, stdout=out)
        return out.getvalue()

    def test_dry_run_sends_and_keeps_nothing(self, wire):
        fill(wire, 5)
        assert self.run("--dry-run") == "author: 5 rows would be sent.\n"
        assert self.run("--dry-run", "--mode", "digest") == "author: 5 rows would be compared.\n"
        assert not wire.messages and not wire.notes and not SyncState.objects.exists()

    def test_json(self, wire):
        fill(wire, 5)
        found = json.loads(self.run("--mode", "digest", "--format", "json"))
        assert found["models"][0]["rows"] == 5 and found["models"][0]["bytes"] == wire.bytes

    def test_waiting_in_vain(self, wire):
        with pytest.raises(CommandError, match="No replica has answered"):
            self.run("--mode", "digest", "--wait", "0.1")

    def test_waiting(self, wire, monkeypatch):
        rows = fill(wire, 5)
        monkeypatch.setattr(time, "sleep", lambda seconds: wire.settle())
        assert "equal, last verified" in self.run("--mode", "digest", "--wait", "20")
        replica.Author.objects.filter(pk=rows[0].pk).update(cqrs_revision=9)
        with pytest.raises(CommandError, match="Not every replica"):
            self.run("--mode", "digest", "--wait", "0.3")

    def test_status(self, wire):
        fill(wire, 5)
        heal(wire)
        out = StringIO()
        call_command("cqrs_status", stdout=out)
        assert "author digest to cqrs_tests: equal, last verified 20" in out.getvalue()
        out = StringIO()
        call_command("cqrs_status", "--format", "json", stdout=out)
        [every, one] = json.loads(out.getvalue())["syncs"]
        assert (every["queue"], every["in_progress"], every["position"]) == ("", False, {"done": 5, "total": 5})
        assert (one["queue"], one["equal"], one["rows_compared"]) == ("cqrs_tests", True, 5)

    def test_a_replica_that_is_gone_is_forgotten(self, wire):
        fill(wire, 5)
        heal(wire)
        SyncState.objects.filter(queue="cqrs_tests").update(updated_at=LONG_AGO)
        tasks.cqrs_purge()
        assert [each.queue for each in SyncState.objects.all()] == [""]
