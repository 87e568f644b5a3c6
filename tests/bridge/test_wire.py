"""What django-cqrs puts on the wire read as changes, and changes written as it would write them."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from dataclasses import replace
from decimal import Decimal

import pytest
from django.db import models

from django_cqrs_celery import bridge, images, intake, recreations, serialization
from django_cqrs_celery.constants import SignalType
from django_cqrs_celery.dataclasses import TransportPayload, decode_message, dumps, encode_message, loads
from django_cqrs_celery.exceptions import DecodeError
from django_cqrs_celery.models import DeadLetter, Tombstone
from tests.master_app import models as master
from tests.replica_app import models as replica

EARLY, LATE = "2030-01-01 12:00:00+00:00", "2030-01-01 12:00:01+00:00"


def body(signal="SAVE", pk="de", revision=0, updated=EARLY, cqrs_id="country", **data):
    """As django-cqrs writes it."""
    row = {"id": pk} if signal == "DELETE" else {"iso": pk, "name": "Land", "population": 1, **data}
    return json.dumps({
        "signal_type": signal, "cqrs_id": cqrs_id, "instance_pk": pk, "previous_data": None, "correlation_id": None,
        "retries": 0, "expires": "2040-01-01T00:00:00+00:00", "meta": {},
        "instance_data": {**row, "cqrs_revision": revision, "cqrs_updated": updated},
    })  # fmt: skip


def taken(*bodies):
    answer = intake.take([each if isinstance(each, bytes) else each.encode() for each in bodies])
    assert answer.again is None and answer.broken is None
    return answer


def revisions():
    return dict(replica.Country.objects.values_list("code", "cqrs_revision"))


# --- from django-cqrs ----------------------------------------------------------------------------------------------


def test_a_body_is_read_as_a_change():
    change = bridge.read_body(body(revision=3, name="Ü"))
    assert (change.signal_type, change.cqrs_id, change.instance_pk, change.revision) == ("SAVE", "country", "de", 3)
    assert change.expires == datetime.datetime(2040, 1, 1, tzinfo=datetime.timezone.utc) and change.meta == {}
    assert TransportPayload.from_dict(change.to_dict()) == change


@pytest.mark.parametrize(
    ("cqrs_id", "pk", "expected"),
    [("ticket", uuid.UUID(int=0xAB).hex, str(uuid.UUID(int=0xAB))), ("author", "7", 7), ("none", 7, 7)],
)
def test_a_key_gets_the_form_in_which_this_project_sends_it(cqrs_id, pk, expected):
    assert bridge.read_body(body(pk=pk, cqrs_id=cqrs_id)).instance_pk == expected


@pytest.mark.parametrize("kind", [str, str.encode])
def test_a_body_for_one_queue_alone_says_so(kind):
    sent = kind(body(name="Ü"))
    found = bridge.read_body(bridge.directed(sent, 'a "queue"'))
    assert found.queue == 'a "queue"'
    assert replace(found, queue=None) == bridge.read_body(sent)
    for text in ("", "7", "null", "{}", "[1]", "no"):
        assert bridge.directed(kind(text), "q") == kind(text)


def test_a_json_value_that_looks_like_a_mark_of_ours_stays_what_it_is():
    change = bridge.read_body(body(name={"$cqrs:json": "null"}))
    assert serialization.unguard(change.instance_data["name"]) == {"$cqrs:json": "null"}


@pytest.mark.parametrize("text", ["{}", '{"a": ', '{"signal_type": "SAVE"}', '{"signal_type": 1, "cqrs_id": 2}'])
def test_what_cannot_be_read_says_so(text):
    with pytest.raises(DecodeError) as caught:
        bridge.read_body(text)
    assert caught.value.raw is not None


def test_changes_of_both_kinds_are_applied_and_what_cannot_be_read_is_kept(engine):
    own = json.loads(body(pk="fr", revision=2))
    answer = taken(body(), encode_message([dumps(own)]), '{"signal_type": "SAVE", "cqrs_id": "country"}')
    assert revisions() == {"de": 0, "fr": 2} and answer.failed == 1
    assert [letter.status for letter in DeadLetter.objects.using(_alias())] == ["dead"]


def test_what_django_cqrs_gave_up_is_kept_as_a_change_that_can_be_tried_again(engine):
    intake.keep([(body(revision=4), "given up")])
    letter = DeadLetter.objects.using(_alias()).get()
    assert (letter.cqrs_id, letter.instance_pk, letter.revision) == ("country", "de", 4)
    assert TransportPayload.from_dict(loads(letter.payload)) == bridge.read_body(body(revision=4))


def _alias():
    return intake.dead_letter_alias()


# --- rows that are created again -----------------------------------------------------------------------------------

LIFE = [body(revision=0), body(revision=1), body("DELETE", revision=2), body(revision=0, updated=LATE, name="Neu")]


@pytest.mark.parametrize("parts", [[LIFE], [[each] for each in LIFE], [LIFE[:3], LIFE[3:]], [LIFE, LIFE]])
def test_a_row_that_is_created_again_begins_anew(engine, parts):
    for part in parts:
        taken(*part)
    assert list(replica.Country.objects.values_list("label", "cqrs_revision")) == [("Neu", 0)]
    taken(body(revision=1, updated=LATE))
    assert revisions() == {"de": 1}


def test_a_late_change_does_not_bring_a_deleted_row_back(engine):
    taken(*LIFE[:3])
    taken(LIFE[1])
    assert revisions() == {}


def test_a_row_that_comes_back_by_way_of_a_moved_master_is_taken(engine):
    taken(*LIFE[:3])
    new = json.loads(LIFE[3])
    recreations._found.clear()
    taken(encode_message([dumps(new)]))
    assert revisions() == {"de": 0}


def test_the_delete_of_a_moved_master_is_final(engine):
    taken(*LIFE[:3])
    delete = json.loads(body("DELETE", revision=9, updated=LATE))
    taken(encode_message([dumps(delete)]))
    assert Tombstone.objects.using(_alias()).filter(cqrs_id="country", deleted_at=None).count() == 1
    recreations._found.clear()
    taken(encode_message([dumps(json.loads(body(revision=5, updated="2030-01-01 12:00:03+00:00")))]))
    assert revisions() == {}


# --- to django-cqrs ------------------------------------------------------------------------------------------------


def written(instance, signal=SignalType.SAVE, **more):
    change = TransportPayload(
        signal_type=signal, cqrs_id=instance.CQRS_ID, instance_data=images.of_instance(instance),
        instance_pk=images.wire_pk(type(instance), instance.pk), **more,
    )  # fmt: skip
    (made,) = bridge.bodies(encode_message([dumps(change.to_dict())]))
    return json.loads(made)


def test_values_have_the_form_that_django_cqrs_gives_them():
    noon = datetime.datetime(2030, 1, 1, 12, 0, 0, 5, tzinfo=datetime.timezone.utc)
    author = master.Author(pk=3, name="Ü", born=datetime.date(1999, 12, 31), cqrs_revision=4, cqrs_updated=noon)
    assert written(author, expires=noon, meta={"a": 1}, correlation_id="c", previous_data={"rating": 1}) == {
        "signal_type": "SAVE", "cqrs_id": "author", "instance_pk": 3, "correlation_id": "c", "retries": 0,
        "expires": "2030-01-01T12:00:00+00:00", "meta": {"a": 1}, "previous_data": {"rating": 1},
        "instance_data": {
            "id": 3, "name": "Ü", "email": None, "born": "1999-12-31", "rating": 0, "cqrs_revision": 4,
            "cqrs_updated": str(noon),
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("price", "sent"),
    [("9.50", 9.5), ("0.10", 0.1), ("-3.00", -3.0), ("1234567890.12", 1234567890.12), ("0.00", 0.0)],
)
def test_a_decimal_is_a_number(price, sent):
    book = master.Book(pk=1, title="t", author_id=2, price=Decimal(price), cqrs_updated=None)
    value = written(book)["instance_data"]["price"]
    assert value == sent and isinstance(value, float)


@pytest.mark.parametrize(("value", "places"), [("123456789012345678.99", 2), ("0.1", 20), ("NaN", 2)])
def test_a_decimal_that_a_number_would_change_is_text(value, places):
    assert bridge._decimal_of(places)(value) == value


@pytest.mark.parametrize("places", [0, 2, 6, 12])
def test_a_decimal_of_a_number_is_the_decimal_again(places):
    field = models.DecimalField(max_digits=15, decimal_places=places)
    for value in (1, 7, 123456789, 999999999999999, -33):
        number = Decimal(value).scaleb(-places)
        sent = bridge._decimal_of(places)(str(number))
        with decimal.localcontext(prec=50):
            assert field.to_python(sent).quantize(number) == number


def test_a_delete_names_its_key_id():
    code = uuid.UUID(int=5)
    ticket = master.Ticket(code=code, title="t", cqrs_revision=7, cqrs_updated=None)
    data = written(ticket, SignalType.DELETE)["instance_data"]
    assert data == {"id": str(code), "cqrs_revision": 7, "cqrs_updated": None}


def test_every_change_of_a_message_has_a_body_of_its_own():
    changes = [json.loads(body(pk=pk)) for pk in ("a", "b")]
    made = bridge.bodies(encode_message([dumps(each) for each in changes]))
    assert [json.loads(each)["instance_pk"] for each in made] == ["a", "b"]
    assert decode_message(encode_message([dumps(each) for each in changes])) == changes
