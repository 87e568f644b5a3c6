"""Django's own bulk writes on master models replicate, in few statements, on every engine and through every hook."""

from __future__ import annotations

import pytest
from django.db import connections, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from django_cqrs_celery.models import OutboxMessage
from tests import routing
from tests.master_app import models as master
from tests.replica_app import models as replica


def rows(model):
    return list(model.objects.order_by("pk").values_list("pk", "name", "rating", "cqrs_revision"))


def fill(count=30):
    return master.Author.objects.bulk_create(
        [master.Author(name=f"n{n}", email=f"{n}@example.com", rating=n) for n in range(count)]
    )


def statements(work):
    with CaptureQueriesContext(connections[routing.current["master"]]) as queries:
        work()
    return len(queries)


@pytest.mark.usefixtures("engine")
class TestBulkWrites:
    def test_bulk_create(self, net):
        fill()
        net.run()
        assert rows(replica.Author) == rows(master.Author)
        assert len(rows(replica.Author)) == 30

    def test_bulk_create_continues_above_a_delete(self, net):
        author = master.Author.objects.create(pk=5, name="first")
        author.save()
        author.delete()
        net.run()
        master.Author.objects.bulk_create([master.Author(pk=5, name="second"), master.Author(pk=6, name="new")])
        assert dict(master.Author.objects.values_list("pk", "cqrs_revision")) == {5: 3, 6: 0}
        net.run()
        assert rows(replica.Author) == rows(master.Author)

    def test_bulk_create_that_updates_conflicts(self, net):
        first = fill(3)
        net.run()
        again = [master.Author(pk=first[0].pk, name="other", email="0@example.com"), master.Author(pk=900, name="new")]
        options = {} if routing.current["master"].startswith("mariadb") else {"unique_fields": ["id"]}
        master.Author.objects.bulk_create(again, update_conflicts=True, update_fields=["name"], **options)
        net.run()
        assert rows(replica.Author) == rows(master.Author)
        assert replica.Author.objects.get(pk=first[0].pk).name == "other"

    def test_bulk_create_that_ignores_conflicts(self, net):
        first = fill(1)
        net.run()
        again = [master.Author(pk=first[0].pk, name="ignored"), master.Author(pk=900, name="new")]
        master.Author.objects.bulk_create(again, ignore_conflicts=True)
        net.run()
        assert rows(replica.Author) == rows(master.Author)

    def test_update(self, net):
        fill()
        net.run()
        assert master.Author.objects.filter(rating__gte=10).update(name="updated", rating=F("rating") + 1) == 20
        net.run()
        assert rows(replica.Author) == rows(master.Author)
        assert replica.Author.objects.filter(name="updated", cqrs_revision=1).count() == 20

    def test_update_by_a_relation(self, net):
        author, other = fill(2)
        for parent in (author, author, other):
            master.Book.objects.create(title="t", author=parent)
        net.run()
        assert master.Book.objects.filter(author__name="n0").update(title="updated") == 2
        net.run()
        assert replica.Book.objects.filter(title="updated", cqrs_revision=1).count() == 2

    def test_update_that_is_rolled_back(self, net):
        fill(3)
        net.run()
        with pytest.raises(ValueError, match="no"), transaction.atomic(using=routing.current["master"]):
            master.Author.objects.update(name="undone")
            raise ValueError("no")
        assert net.pump() == 0
        assert set(master.Author.objects.values_list("cqrs_revision", flat=True)) == {0}

    def test_update_of_nothing(self, net):
        fill(1)
        net.run()
        assert master.Author.objects.filter(name="nobody").update(name="x") == 0
        assert master.Author.objects.none().update(name="x") == 0
        assert net.pump() == 0

    def test_update_of_tracked_fields_brings_previous_values(self, net):
        author = fill(1)[0]
        master.Book.objects.create(title="one", author=author)
        net.run()
        master.Book.objects.update(title="two")
        net.pump()
        assert b'"previous_data":{"title":"one"}' in net.messages[0].body

    def test_bulk_update(self, net):
        authors = fill()
        net.run()
        for author in authors:
            author.name += "!"
        master.Author.objects.bulk_update(authors, ["name"])
        net.run()
        assert rows(replica.Author) == rows(master.Author)
        assert replica.Author.objects.filter(name__endswith="!", cqrs_revision=1).count() == 30

    def test_delete_with_a_cascade(self, net):
        authors = fill(10)
        for author in authors:
            master.Book.objects.create(title="t", author=author)
        net.run()
        master.Author.objects.filter(rating__lt=5).delete()
        net.run()
        assert rows(replica.Author) == rows(master.Author)
        assert replica.Book.objects.count() == 5

    def test_parent_deleted_from_children_that_stay(self, net):
        authors = fill(3)
        for author in authors:
            master.Note.objects.create(text="t", author=author)
        net.run()
        authors[0].delete()
        master.Author.objects.filter(pk=authors[1].pk).delete()
        net.run()
        wanted = list(master.Note.objects.order_by("pk").values_list("pk", "author_id", "cqrs_revision"))
        assert [revision for _, _, revision in wanted] == [1, 1, 0]
        assert list(replica.Note.objects.order_by("pk").values_list("pk", "author_id", "cqrs_revision")) == wanted

    def test_rows_added_to_a_reverse_relation(self, net):
        author = fill(1)[0]
        notes = [master.Note.objects.create(text="t") for _ in range(3)]
        net.run()
        author.note_set.add(*notes[:2])
        author.note_set.remove(notes[0])
        net.run()
        wanted = list(master.Note.objects.order_by("pk").values_list("pk", "author_id", "cqrs_revision"))
        assert list(replica.Note.objects.order_by("pk").values_list("pk", "author_id", "cqrs_revision")) == wanted

    def test_key_that_is_no_number(self, net):
        master.Ticket.objects.bulk_create([master.Ticket(title=str(n)) for n in range(3)])
        master.Country.objects.bulk_create([master.Country(iso="nl", name="Netherlands")])
        net.run()
        master.Ticket.objects.update(title="updated")
        master.Country.objects.update(name="updated")
        net.run()
        assert replica.Ticket.objects.filter(title="updated").count() == 3
        assert replica.Country.objects.get().label == "updated"

    def test_few_statements(self):
        fill(5)
        OutboxMessage.objects.all().delete()
        few = statements(lambda: fill_more(10)), statements(lambda: fill_more(200))
        assert few[1] <= few[0] + 2
        assert statements(lambda: master.Author.objects.update(rating=1)) <= 8
        assert statements(lambda: master.Author.objects.all().delete()) <= 20
        assert OutboxMessage.objects.filter(signal_type="DELETE").count() == 215


def fill_more(count):
    start = master.Author.objects.count() * 1000
    master.Author.objects.bulk_create(
        [master.Author(name="m", email=f"{start + n}@example.com") for n in range(count)]
    )
