"""Changes and messages: what is written is what is read."""

from __future__ import annotations

import datetime as dt
import json

import kombu.utils.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_cqrs_celery import dataclasses
from django_cqrs_celery.constants import WIRE_VERSION, SignalType
from django_cqrs_celery.dataclasses import TransportPayload
from django_cqrs_celery.exceptions import DecodeError, EncodeError

UTC = dt.timezone.utc
FULL = TransportPayload(
    signal_type=SignalType.SYNC,
    cqrs_id="author",
    instance_data={"id": 1, "name": "Ж\U0001f600", "cqrs_revision": 3},
    instance_pk=1,
    previous_data={"name": None},
    correlation_id="abc",
    expires=dt.datetime(2024, 1, 2, 3, 4, 5, 678, UTC),
    retries=2,
    meta={"__type__": "x", "__value__": [1]},
    force=True,
)


def round_trip(payload):
    body = dataclasses.encode_message([dataclasses.dumps(payload.to_dict())])
    return TransportPayload.from_dict(dataclasses.decode_message(body)[0])


class TestPayload:
    def test_comes_back_equal(self):
        assert round_trip(FULL) == FULL
        assert (FULL.pk, FULL.revision) == (1, 3)

    def test_needs_little(self):
        short = {"signal_type": "SAVE", "cqrs_id": "a", "instance_pk": "x", "instance_data": {"cqrs_revision": 0}}
        payload = TransportPayload.from_dict({**short, "unknown": 1})
        assert payload == TransportPayload(
            signal_type=SignalType.SAVE, cqrs_id="a", instance_pk="x", instance_data={"cqrs_revision": 0}
        )
        assert payload.expires is None and payload.retries == 0 and payload.force is False

    def test_is_a_value(self):
        with pytest.raises(AttributeError):
            FULL.retries = 5
        assert FULL.retried().retries == 3
        assert FULL.retries == 2

    def test_expires(self):
        assert not FULL.is_expired(FULL.expires - dt.timedelta(microseconds=1))
        assert FULL.is_expired(FULL.expires)
        assert FULL.is_expired()

    def test_a_time_without_zone_is_in_utc(self):
        data = {**FULL.to_dict(), "expires": "2024-01-02T03:04:05"}
        assert TransportPayload.from_dict(data).expires == dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)

    @pytest.mark.parametrize("wrong", [None, 5, [], "x", {"signal_type": "SAVE"}])
    def test_an_error_carries_what_came(self, wrong):
        with pytest.raises(DecodeError) as caught:
            TransportPayload.from_dict(wrong)
        assert caught.value.raw is wrong


class TestMessage:
    def test_is_that_of_a_celery_task(self):
        args, kwargs, embed = json.loads(dataclasses.encode_message([dataclasses.dumps(FULL.to_dict())]))
        assert args == []
        assert kwargs["version"] == WIRE_VERSION
        assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}

    @pytest.mark.parametrize(
        "hostile",
        [
            {"__type__": "x", "__value__": 1},
            {"__type__": "datetime", "__value__": "2024-01-01"},
            [{"a": {"__type__": "uuid", "__value__": "no"}}],
            {"$cqrs:json": "1"},
            {"$cqrs:json": {"$cqrs:json": "1"}},
            {"a\\u005f": "\\"},
        ],
    )
    def test_a_stock_codec_reads_any_meta(self, hostile):
        payload = TransportPayload(
            signal_type=SignalType.SAVE, cqrs_id="a", instance_pk=1, instance_data={"cqrs_revision": 0}, meta=hostile
        )
        body = dataclasses.encode_message([dataclasses.dumps(payload.to_dict())])
        assert kombu.utils.json.loads(body)
        assert TransportPayload.from_dict(dataclasses.decode_message(body)[0]).meta == hostile

    @pytest.mark.parametrize(
        "body", ["", "123", "null", "{}", "[]", "[[]]", "[[], 1]", '[[], {"changes": 1}]', b"\xff"]
    )
    def test_others_are_refused_with_their_body(self, body):
        with pytest.raises(DecodeError) as caught:
            dataclasses.decode_message(body)
        assert caught.value.raw == body


class TestJson:
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=())),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )  # fmt: skip
    def test_comes_back_equal_also_to_others(self, value):
        text = dataclasses.dumps(value)
        text.encode()
        assert repr(dataclasses.loads(text)) == repr(value)
        assert repr(json.loads(text)) == repr(value)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x", dt.date(2024, 1, 1)])
    def test_what_is_no_json_is_refused(self, value):
        with pytest.raises(EncodeError):
            dataclasses.dumps([value])

    def test_what_has_come_can_be_kept(self):
        received = dataclasses.loads('[NaN, Infinity, "\\ud800", 1e400]')
        assert repr(dataclasses.loads(dataclasses.dumps_received(received))) == repr(received)
