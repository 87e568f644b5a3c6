"""Primary keys of every type, foreign keys, and columns that the master's database computes."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal as D

import pytest

from django_cqrs_celery import images, serialization
from django_cqrs_celery.models import DeadLetter, OutboxMessage, Tombstone
from tests import conftest, routing
from tests.fidelity import hooked
from tests.fidelity.masters import models as masters
from tests.fidelity.replicas import models as replicas

UTC = dt.timezone.utc
WORDS = [
    "plain", "with space", "a/b\\c", "q'\"`%s", "Ж中", "\U0001f600", "", "0", "None", "null", "x" * 255, "Case", "case",
]  # fmt: skip
KEYS = {
    "Word": WORDS,
    "Huge": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63)],
    "Token": [uuid.UUID(int=0), uuid.UUID("12345678-1234-5678-1234-567812345678")],
    "Rate": [D("0.00"), D("1.50"), D("-1000.00"), D("99999999.99")],
    "Moment": [dt.datetime(2024, 2, 29, 1, 2, 3, 456789, UTC), dt.datetime(1900, 1, 1, tzinfo=UTC)],
    "Day": [dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    "Small": [1, 2**15 - 1],
    "Middle": [1, 2**31 - 1],
}
PAIRS = [("sqlite", "postgresql"), ("postgresql", "mariadb"), ("mariadb", "sqlite")]
PAIR_IDS = ["-".join(pair) for pair in PAIRS]


def rows(model):
    return {row.pk: (row.note, row.cqrs_revision) for row in model.objects.all()}


def nothing_is_left_over():
    return not OutboxMessage.objects.failed().exists() and not DeadLetter.objects.exists()


@pytest.mark.parametrize("way", hooked.WAYS)
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_primary_keys(pair, way, net, monkeypatch):
    conftest.use_pair(*pair)
    for name, keys in KEYS.items():
        master, replica = getattr(masters, name), getattr(replicas, name)
        hooked.take_way(way, monkeypatch, replica)
        for key in keys:
            master.objects.create(pk=key, note="created")
        net.run()
        assert rows(replica) == dict.fromkeys(keys, ("created", 0))
        for row in master.objects.all():
            row.note = "saved"
            row.save()
        net.run()
        assert rows(replica) == dict.fromkeys(keys, ("saved", 1))
        for row in master.objects.all():
            row.delete()
        net.run()
        assert rows(replica) == {}
        for key in keys:
            master.objects.create(pk=key, note="again")
        net.run()
        assert rows(replica) == dict.fromkeys(keys, ("again", 3))
    assert nothing_is_left_over()


OTHER_SPELLINGS = [
    ("Rate", D("1.50"), D("1.5")),
    ("Rate", D("1.50"), "1.5"),
    ("Rate", D("1000.00"), D("1E+3")),
    ("Token", uuid.UUID(int=5), uuid.UUID(int=5).hex),
    ("Token", uuid.UUID(int=10), str(uuid.UUID(int=10)).upper()),
    ("Huge", 5, "5"),
    ("Word", "5", 5),
    ("Day", dt.date(2024, 1, 2), "2024-01-02"),
    ("Moment", dt.datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T05:30:00+05:30"),
    (
        "Moment",
        dt.datetime(2024, 1, 2, tzinfo=UTC),
        dt.datetime(2024, 1, 2, 5, 30, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
    ),
]


@pytest.mark.parametrize(("name", "key", "written"), OTHER_SPELLINGS, ids=str)
def test_a_key_that_is_written_otherwise_is_the_same_row(name, key, written, engine, net):
    """The outbox knows rows by the text of their key: every way to write a key must give one text."""
    master, replica = getattr(masters, name), getattr(replicas, name)
    master.objects.create(pk=written, note="created")
    net.run()
    assert rows(replica) == {key: ("created", 0)}
    row = master.objects.get()
    row.pk, row.note = written, "saved"
    row.save()
    net.run()
    assert rows(replica) == {key: ("saved", 1)}
    master(pk=written, cqrs_revision=1).delete()
    net.run()
    assert rows(replica) == {}
    text = serialization.pk_text(images.wire_pk(master, key))
    assert Tombstone.objects.get(cqrs_id=master.CQRS_ID).instance_pk == text
    master.objects.create(pk=key, note="again")
    net.run()
    assert rows(replica) == {key: ("again", 3)}
    assert nothing_is_left_over()


@pytest.mark.parametrize("way", hooked.WAYS)
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
class TestForeignKeys:
    def test_to_a_column_that_is_no_primary_key(self, pair, way, net, monkeypatch):
        conftest.use_pair(*pair)
        hooked.take_way(way, monkeypatch, replicas.Currency, replicas.Price)
        euro, yen = (masters.Currency.objects.create(code=code) for code in ("€", "¥"))
        price = masters.Price.objects.create(currency=euro, amount=1)
        masters.Price.objects.create(amount=2)
        net.run()
        assert list(replicas.Price.objects.order_by("id").values_list("currency_id", "amount")) == [("€", 1), (None, 2)]
        price.currency = yen
        price.save()
        net.run()
        assert replicas.Price.objects.get(amount=1).currency == replicas.Currency.objects.get(code="¥")
        assert nothing_is_left_over()

    def test_child_before_such_a_parent(self, pair, way, net, monkeypatch):
        conftest.use_pair(*pair)
        hooked.take_way(way, monkeypatch, replicas.Currency, replicas.Price)
        euro = masters.Currency.objects.create(code="€")
        net.pump()
        masters.Price.objects.create(currency=euro, amount=1)
        net.pump()
        net.deliver(1)
        assert DeadLetter.objects.exclude(status__in=("resolved", "superseded")).count() == 1
        assert not replicas.Price.objects.exists()
        net.deliver(0)
        # No row's primary key tells that this parent has come: the letter's next retry finds it.
        DeadLetter.objects.filter(status="pending").update(next_retry_at="2024-01-01T00:00:00Z")
        from django_cqrs_celery import intake

        intake.retry_due()
        assert replicas.Price.objects.get().currency_id == "€"

    def test_one_to_one_as_primary_key(self, pair, way, net, monkeypatch):
        conftest.use_pair(*pair)
        hooked.take_way(way, monkeypatch, replicas.Token, replicas.Profile)
        token = masters.Token.objects.create(note="t")
        profile = masters.Profile.objects.create(token=token, note="p")
        net.run()
        profile.note = "q"
        profile.save()
        net.run()
        assert rows(replicas.Profile) == {token.pk: ("q", 1)}
        profile.delete()
        net.run()
        assert rows(replicas.Profile) == {}
        assert nothing_is_left_over()


@pytest.mark.parametrize("way", hooked.WAYS)
def test_columns_that_the_database_computes(way, engine, net, monkeypatch):
    hooked.take_way(way, monkeypatch, replicas.Invoice)
    invoice = masters.Invoice.objects.create(net=2**29)
    net.run()
    assert replicas.Invoice.objects.values_list("net", "gross", "state").get() == (2**29, 2**30, "new")
    invoice.net = -5
    invoice.state = "paid"
    invoice.save()
    net.run()
    assert replicas.Invoice.objects.values_list("net", "gross", "state").get() == (-5, -10, "paid")


def test_a_collation_without_case_finds_the_row(net):
    """On such a database ``case`` updates the row ``Case``; the change must not be taken for one of a deleted row."""
    conftest.use_pair("mariadb", "sqlite")
    from django.db import connections

    using = routing.current["master"]
    table = masters.Word._meta.db_table
    alter = f"ALTER TABLE {table} MODIFY text varchar(255) COLLATE %s NOT NULL"
    with connections[using].cursor() as cursor:
        cursor.execute(alter % "utf8mb4_general_ci")
    try:
        masters.Word.objects.create(text="Case", note="a")
        net.run()
        row = masters.Word.objects.get(pk="cASE")
        row.pk, row.note = "cASE", "b"
        row.save()
        net.run()
        assert rows(replicas.Word) == {"Case": ("b", 1)}
    finally:
        with connections[using].cursor() as cursor:
            cursor.execute(alter % "utf8mb4_bin")
