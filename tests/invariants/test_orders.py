"""Orders of events that the searches and the races have found to go wrong once, each for itself."""

from __future__ import annotations

import pytest
from django.db.models.signals import pre_delete

from django_cqrs_celery import intake
from django_cqrs_celery.dataclasses import decode_message, dumps
from django_cqrs_celery.models import DeadLetter, OutboxMessage
from tests.invariants import witness
from tests.master_app import models as master
from tests.replica_app import models as replica

pytestmark = pytest.mark.usefixtures("engine")


def one_by_one(net, *writes) -> list:
    """Do the writes; returns the message that each led to."""
    messages = []
    for write in writes:
        write()
        net.pump()
        messages += net.messages
        net.messages.clear()
    return messages


def deliver(net, *messages) -> None:
    """Deliver messages one after the other."""
    for message in messages:
        net.messages[:] = [message]
        net.deliver()
    net.messages.clear()


def test_late_delete_of_a_parent_that_has_come_back_keeps_its_children(net):
    create, delete, again, child, grandchild = one_by_one(
        net,
        lambda: master.Node.objects.create(pk=7, name="first"),
        lambda: master.Node.objects.get(pk=7).delete(),
        lambda: master.Node.objects.create(pk=7, name="second"),
        lambda: master.Node.objects.create(pk=8, name="child", parent_id=7),
        lambda: master.Node.objects.create(pk=9, name="grandchild", parent_id=8),
    )
    deliver(net, create, child, grandchild, delete)
    assert not replica.Node.objects.exists()
    deliver(net, child)  # once more, and still without its parent
    assert not replica.Node.objects.exists()
    deliver(net, again)
    assert witness.differences() == []


def test_children_that_go_with_their_parent_leave_no_letters_once_their_deletes_come(net):
    parent, child, deletes = one_by_one(
        net,
        lambda: master.Author.objects.create(pk=7, name="parent"),
        lambda: master.Book.objects.create(pk=8, title="child", author_id=7),
        lambda: master.Book.objects.get(pk=8).delete(),
    )
    (parent_delete,) = one_by_one(net, lambda: master.Author.objects.get(pk=7).delete())
    deliver(net, parent, child, parent_delete)
    assert DeadLetter.objects.open().count() == 1
    deliver(net, deletes)
    assert witness.differences() == []


def test_an_older_state_does_not_take_the_place_of_a_child_that_went_with_its_parent(net):
    parent, other, before, moved, _, delete = one_by_one(
        net,
        lambda: master.Author.objects.create(pk=7, name="parent"),
        lambda: master.Author.objects.create(pk=6, name="other"),
        lambda: master.Book.objects.create(pk=8, title="child", author_id=6),
        lambda: _move(8, 7),
        lambda: master.Author.objects.get(pk=7).delete(),  # with the book: two messages
    )
    assert delete.cqrs_id == "author"
    deliver(net, parent, other, moved)
    assert replica.Book.objects.get().cqrs_revision == 1
    deliver(net, delete, before)
    assert not replica.Book.objects.exists()


def _move(book: int, author: int) -> None:
    row = master.Book.objects.get(pk=book)
    row.author_id = author
    row.save()


def test_delete_counts_where_the_newer_state_of_its_batch_has_to_wait(net):
    row, delete = one_by_one(
        net,
        lambda: master.Node.objects.create(pk=8, name="first"),
        lambda: master.Node.objects.get(pk=8).delete(),
    )
    parent, again = one_by_one(
        net,
        lambda: master.Node.objects.create(pk=7, name="parent"),
        lambda: master.Node.objects.create(pk=8, name="second", parent_id=7),
    )
    deliver(net, row)
    net.messages[:] = [delete, again]
    net.deliver()
    assert not replica.Node.objects.exists()
    deliver(net, parent)
    assert witness.differences() == []


def test_row_that_is_replicated_only_later_is_newer_than_the_one_before(net, monkeypatch):
    row, delete = one_by_one(
        net,
        lambda: master.Author.objects.create(pk=7, name="first"),
        lambda: master.Author.objects.get(pk=7).delete(),
    )
    with monkeypatch.context() as patch:
        patch.setattr(master.Author, "is_sync_instance", lambda self: False)
        master.Author.objects.create(pk=7, name="second")
        master.Author.objects.get(pk=7).delete()
        master.Author.cqrs.bulk_create([master.Author(pk=7, name="third")])
    deliver(net, row, delete)
    master.Author.objects.get(pk=7).save()
    net.run()
    assert witness.differences() == []


@pytest.mark.parametrize("listened_to", [False, True])
def test_delete_of_a_row_that_is_gone_already(net, listened_to):
    seen = []
    listener = lambda sender, instance, **kwargs: seen.append(instance.pk)  # noqa: E731
    for model, key in ((master.Author, 7), (master.Ticket, master.Ticket().code)):
        row = model.objects.create(pk=key)
        model.objects.get(pk=key).delete()
        if listened_to:
            pre_delete.connect(listener, sender=model)
        try:
            assert row.delete()[0] == 0
        finally:
            pre_delete.disconnect(listener, sender=model)
        assert seen == ([key] if listened_to else [])
        assert row.pk is None
        seen.clear()
    assert OutboxMessage.objects.filter(signal_type="DELETE").count() == 2


def test_waiting_change_of_a_row_that_has_moved_on_is_closed(net):
    """Its worker did not see the newer state, which came in another transaction at the same time."""
    (child,) = one_by_one(net, _child_of_seven)
    (moved,) = one_by_one(net, lambda: _to_root(8))
    deliver(net, moved)
    DeadLetter.objects.create(
        cqrs_id="node", instance_pk="8", signal_type="SAVE", revision=0, status="waiting", waiting_cqrs_id="node",
        waiting_pk="7", payload=_first_change(child), error_class="x",
    )  # fmt: skip
    intake.retry_due()
    assert not DeadLetter.objects.open().exists()


def _child_of_seven() -> None:
    parent = master.Node(pk=7, name="parent")
    master.Node.objects.bulk_create([parent])  # past the project: the replica never hears of it
    master.Node.objects.create(pk=8, name="child", parent_id=7)


def _to_root(key: int) -> None:
    row = master.Node.objects.get(pk=key)
    row.parent = None
    row.save()


def _first_change(message) -> str:
    return dumps(decode_message(message.body)[0])


@pytest.mark.parametrize("apart", [False, True])
def test_circle_is_deleted(net, apart):
    """The replica hears only of the deletes, not of how the master got the circle open."""
    for key in (7, 8, 9):
        master.Node.objects.create(pk=key, name="node")
    for key, parent in ((7, 8), (8, 9), (9, 7)):
        _put_under(key, parent)
    net.run()
    assert replica.Node.objects.filter(parent__isnull=False).count() == 3
    _to_root(7)
    for key in (8, 9, 7):
        master.Node.objects.filter(pk=key).update(parent=None)
        if apart:
            master.Node.objects.get(pk=key).delete()
    if not apart:
        master.Node.objects.filter(pk__in=(7, 8, 9)).delete()
    net.pump()
    assert len(net.messages) == 1
    net.deliver()
    assert witness.differences() == []


def _put_under(key: int, parent: int) -> None:
    row = master.Node.objects.get(pk=key)
    row.parent_id = parent
    row.save()
