"""Rows that block each other when applied one by one: swapped unique values, circles and chains of foreign keys."""

from __future__ import annotations

import itertools

import pytest
from django.db import connections, transaction
from django.db.models.functions import Now

from django_cqrs_celery import intake
from django_cqrs_celery.models import DeadLetter
from tests import routing
from tests.master_app import models as master
from tests.replica_app import models as replica


def seats(model):
    return list(model.objects.order_by("pk").values_list("pk", "code", "cqrs_revision"))


def retry_until_settled():
    """Try due letters again as a worker does, with the clock moved on; ends when a round changes nothing."""
    for _ in range(20):
        letters = DeadLetter.objects.filter(status="pending")
        if not letters.exists():
            return
        letters.update(next_retry_at=Now())
        if not intake.retry_due().applied:
            return


def swap(*codes_after):
    """Give the seats, in the order of their keys, these codes, by way of a code that nobody has."""
    rows = list(master.Seat.objects.order_by("pk"))
    with transaction.atomic(using=rows[0]._state.db):
        for row in rows:
            row.code = f"free-{row.pk}"
            row.save()
        for row, code in zip(rows, codes_after, strict=True):
            row.code = code
            row.save()


@pytest.mark.usefixtures("engine")
class TestUniqueValues:
    @pytest.mark.parametrize("codes", [("a", "b"), ("a", "b", "c")])
    def test_swapped_in_every_order_of_arrival(self, net, codes):
        for code in codes:
            master.Seat.objects.create(code=code)
        net.run()
        rotated = codes[1:] + codes[:1]
        swap(*rotated)
        net.pump()
        net.messages.clear()
        # One message for each row, so that they can come in any order.
        for row in master.Seat.objects.order_by("pk"):
            row.row += 1
            row.save()
            net.pump()
        wanted = seats(master.Seat)
        before = list(replica.Seat.objects.values())
        for order in itertools.permutations(range(len(codes))):
            replica.Seat.objects.all().delete()
            DeadLetter.objects.all().delete()
            replica.Seat.objects.bulk_create(replica.Seat(**row) for row in before)
            for index in order:
                net.deliver(index)
            retry_until_settled()
            assert seats(replica.Seat) == wanted, order
            assert not DeadLetter.objects.open().exists(), order

    def test_swapped_in_one_batch(self, net):
        for code in ("a", "b", "c"):
            master.Seat.objects.create(code=code)
        net.run()
        swap("c", "a", "b")
        net.run()
        retry_until_settled()
        assert seats(replica.Seat) == seats(master.Seat)
        assert not DeadLetter.objects.open().exists()

    def test_value_of_a_deleted_row(self, net):
        first = master.Seat.objects.create(code="a")
        net.run()
        first.delete()
        net.pump()
        master.Seat.objects.create(code="a")
        net.pump()
        net.deliver(1)
        assert DeadLetter.objects.open().count() == 1
        net.deliver(0)
        retry_until_settled()
        assert seats(replica.Seat) == seats(master.Seat)


@pytest.mark.usefixtures("engine")
class TestForeignKeys:
    def test_parents_after_children_ten_levels_deep(self, net):
        parent = None
        for number in range(10):
            parent = master.Node.objects.create(name=str(number), parent=parent)
            net.pump()
        for index in reversed(range(10)):
            net.deliver(index)
        assert replica.Node.objects.count() == 10
        assert not DeadLetter.objects.open().exists()

    @pytest.mark.parametrize("together", [True, False])
    def test_circle_of_two_models(self, net, together):
        using = routing.current["master"]
        with transaction.atomic(using=using), connections[using].constraint_checks_disabled():
            team = master.Team.objects.create(name="t", captain_id=1)
            master.Member.objects.create(pk=1, name="m", team=team)
        net.pump()
        assert len(net.messages) == 2
        if together:
            net.deliver()
        else:
            net.deliver(1)
            assert DeadLetter.objects.open().count() == 1
            net.deliver(0)
        assert replica.Team.objects.get().captain_id == replica.Member.objects.get().pk == 1
        assert not DeadLetter.objects.open().exists()

    def test_circle_in_a_tree(self, net):
        first = master.Node.objects.create(name="first")
        second = master.Node.objects.create(name="second", parent=first)
        first.parent = second
        first.save()
        net.pump()
        net.messages.clear()
        for row in (first, second):
            row.save()
            net.pump()
        net.deliver(0)
        net.deliver(1)
        assert dict(replica.Node.objects.values_list("pk", "parent_id")) == {
            first.pk: second.pk, second.pk: first.pk
        }  # fmt: skip
        assert not DeadLetter.objects.open().exists()
