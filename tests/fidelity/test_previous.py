"""Previous values of tracked fields, whatever a program had assigned; a save never fails for them."""

from __future__ import annotations

import json
from decimal import Decimal as D

import pytest
from django.db.models import F, Value

from tests import services
from tests.master_app import models as master
from tests.replica_app import models as replica


@pytest.fixture
def author(engine, net):
    author = master.Author.objects.create(name="a")
    net.run()
    return author


def previous(net):
    net.pump()
    changes = [change for message in net.messages for change in json.loads(message.body)[1]["changes"]]
    net.deliver()
    net.messages.clear()
    return [change["previous_data"] for change in changes]


def test_all_are_none_for_a_new_row(author, net):
    master.Book.objects.create(title="t", author=author)
    assert previous(net) == [{"title": None, "author": None}]


def test_are_wire_values(author, net):
    book = master.Book.objects.create(title=5, author=author, price=D("1.50"))
    book.title, book.author = "two", master.Author.objects.create(name="b")
    net.run()
    book.save()
    assert previous(net) == [{"title": "5", "author": author.pk}]


def test_expressions_are_left_out(author, net):
    book = master.Book.objects.create(title="t", author=author)
    net.run()
    for title in (Value("v"), F("title"), "last"):
        book.title = title
        book.save()
        seen = previous(net)
    assert seen == ([{"title": "v"}] if services.BY_TRIGGER else [None])  # the database knows what they made
    assert replica.Book.objects.get().title == "last"
