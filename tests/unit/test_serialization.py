"""Wire values without a database; ``tests.fidelity`` sends them through every one."""

from __future__ import annotations

import datetime as dt
import enum
import json
import uuid
from decimal import Decimal as D

import pytest
from django.db import models
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st

from django_cqrs_celery import images, recordsets, serialization
from django_cqrs_celery.exceptions import ApplyError, EncodeError
from tests.fidelity import fields
from tests.fidelity.cases import CASES, POSTGRESQL_CASES, same
from tests.fidelity.masters import models as masters
from tests.master_app.models import Author, Book

UTC = dt.timezone.utc


class Color(enum.Enum):
    RED = "red"


class Shade(str, enum.Enum):
    DARK = "dark"


def named(field):
    field.set_attributes_from_name("value")
    return field


def there_and_back(field, value):
    wire = json.loads(json.dumps(serialization.encode(field, value)))
    return serialization.decode(field, wire)


@pytest.mark.parametrize("table", [CASES, POSTGRESQL_CASES], ids=["everywhere", "postgresql"])
def test_every_value_of_the_table_comes_back(table):
    for column, case in table.items():
        field = named(case.make())
        for value, why in case.plain_values():
            if not why and not isinstance(value, models.Value):
                assert same(there_and_back(field, value), value), (column, value)


class TestJsonFields:
    def test_null_is_not_none(self):
        field = named(models.JSONField(null=True))
        wire = serialization.encode(field, models.Value(None, models.JSONField()))
        assert wire == {"$cqrs:json": "null"}
        assert isinstance(serialization.decode(field, wire), models.Value)
        assert serialization.encode(field, None) is None
        assert serialization.decode(field, None) is None

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=())) | st.sampled_from(["__type__", "$cqrs:json", "__value__"]),
            lambda inner: st.lists(inner)
            | st.dictionaries(st.text() | st.sampled_from(["__type__", "$cqrs:json", "__value__"]), inner),
        ).filter(lambda value: value is not None)
    )  # fmt: skip
    def test_any_json_comes_back(self, value):
        assert same(there_and_back(named(models.JSONField()), value), value)
        assert same(serialization.unguard(serialization.guard(value)), value)

    @pytest.mark.parametrize("text", ['{"\\u005f_type__": 1}', "[1e400]", "[" * 500 + "]" * 500, "1" * 5000])
    def test_text_that_others_would_misread_is_wrapped(self, text):
        assert serialization.wire_json(text) == {"$cqrs:json": text}

    def test_the_encoder_of_the_field_is_used(self):
        from django.core.serializers.json import DjangoJSONEncoder

        field = named(models.JSONField(encoder=DjangoJSONEncoder))
        assert serialization.encode(field, {"at": dt.date(2024, 1, 1)}) == {"at": "2024-01-01"}
        with pytest.raises(EncodeError, match="cannot be sent"):
            serialization.encode(named(models.JSONField()), {"at": dt.date(2024, 1, 1)})


class TestAssignedValues:
    """Not all that programs assign is what the database gives back."""

    @pytest.mark.parametrize(
        ("field", "value", "wire"),
        [
            (models.IntegerField(), "5", 5),
            (models.IntegerField(), D(5), 5),
            (models.BooleanField(), "True", True),
            (models.FloatField(), "1.5", 1.5),
            (models.DecimalField(max_digits=5, decimal_places=2), "1.5", "1.5"),
            (models.DecimalField(max_digits=5, decimal_places=2), 3, "3"),
            (models.DateField(), "2024-01-02", "2024-01-02"),
            (models.DateField(), dt.datetime(2024, 1, 2, 3, tzinfo=UTC), "2024-01-02"),
            (models.DateTimeField(), "2024-01-02T03:04:05Z", "2024-01-02T03:04:05+00:00"),
            (models.TimeField(), "03:04", "03:04:00"),
            (models.DurationField(), "1 00:00:00", "1 00:00:00"),
            (models.UUIDField(), "12345678123456781234567812345678", "12345678-1234-5678-1234-567812345678"),
            (models.CharField(max_length=9), 5, "5"),
            (models.CharField(max_length=9), Shade.DARK, "dark"),
            (models.CharField(max_length=9), mark_safe("<b>"), "<b>"),
            (models.BinaryField(), memoryview(b"ab"), "YWI="),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, (models.Field, memoryview)) else str(value),
    )
    def test_they_are_sent_as_what_the_field_makes_of_them(self, field, value, wire):
        got = serialization.encode(named(field), value)
        assert same(got, wire)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            (models.IntegerField(), "much"),
            (models.DecimalField(max_digits=5, decimal_places=2), "much"),
            (models.IntegerField(), models.F("other") + 1),
            (models.CharField(max_length=9), models.F("other")),
            (models.DateField(), "2023-02-29"),
            (models.UUIDField(), "x"),
            (models.BinaryField(), 5),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_an_error_names_the_field(self, field, value):
        field = named(field)
        with pytest.raises(EncodeError, match="cannot be sent"):
            serialization.encode(field, value)

    def test_image_of_an_instance(self):
        updated = "2024-01-01T00:00Z"
        image = images.of_instance(Author(id=7, name="a", born="2024-01-02", rating="3", cqrs_updated=updated))
        assert (image["id"], image["born"], image["rating"]) == (7, "2024-01-02", 3)
        with pytest.raises(EncodeError, match="rating"):
            images.of_instance(Author(rating=models.F("id"), cqrs_updated=updated))


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("field", "wire"),
        [
            (models.IntegerField(), True),
            (models.IntegerField(), 1.5),
            (models.IntegerField(), "x"),
            (models.IntegerField(), [1]),
            (models.FloatField(), True),
            (models.FloatField(), "x"),
            (models.BooleanField(), "maybe"),
            (models.BooleanField(), []),
            (models.DecimalField(max_digits=5, decimal_places=2), {}),
            (models.DateField(), 20240101),
            (models.DateTimeField(), 5),
            (models.DateTimeField(), "then"),
            (models.TimeField(), "25:00"),
            (models.DurationField(), 60),
            (models.UUIDField(), 5),
            (models.CharField(max_length=5), {}),
            (models.TextField(), []),
            (models.BinaryField(), "not base64!"),
            (models.BinaryField(), 5),
            (models.JSONField(), {"$cqrs:json": "no json"}),
            (fields.PointField(max_length=9), "1"),
            (fields.PointField(max_length=9), 5),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, models.Field) else str(value),
    )
    def test_are_refused_without_showing_the_value(self, field, wire):
        with pytest.raises(ApplyError, match="cannot take a"):
            serialization.decode(named(field), wire)

    @pytest.mark.parametrize(("field", "wire", "value"), [
        (models.IntegerField(), "5", 5), (models.IntegerField(), 5.0, 5), (models.FloatField(), 5, 5.0),
        (models.DecimalField(max_digits=5, decimal_places=2), 1.5, D("1.5")), (models.BooleanField(), 1, True),
        (models.CharField(max_length=5), 5, "5"),
        (models.DateTimeField(), "2024-01-02 03:04", dt.datetime(2024, 1, 2, 3, 4, tzinfo=UTC)),
        (models.DateTimeField(), "2 Jan 2024 03:04 +0100", dt.datetime(2024, 1, 2, 2, 4, tzinfo=UTC)),
    ], ids=str)  # fmt: skip
    def test_what_others_may_write_is_taken(self, field, wire, value):
        assert same(serialization.decode(named(field), wire), value)


class TestTimeZones:
    """A service with ``USE_TZ = False`` keeps the clock of its wall."""

    field = named(models.DateTimeField())

    def decode(self, settings, wire, use_tz, zone):
        settings.USE_TZ, settings.TIME_ZONE = use_tz, zone
        return serialization.decode(self.field, wire)

    @pytest.mark.parametrize(
        "wall",
        [
            dt.datetime(2024, 7, 1, 12, 0, 0, 123456),
            dt.datetime(2024, 3, 10, 2, 30),  # skipped by the clocks of Chicago
            dt.datetime(2024, 11, 3, 1, 30),  # twice on them
            dt.datetime(1, 1, 1),
            dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
            dt.datetime(1850, 1, 1, 12),  # local mean time, seconds in the offset
        ],
    )
    def test_between_two_such_services(self, settings, wall):
        settings.USE_TZ, settings.TIME_ZONE = False, "America/Chicago"
        assert same(there_and_back(self.field, wall), wall)

    def test_to_and_from_services_with_time_zones(self, settings):
        settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kolkata"
        wire = serialization.encode(self.field, dt.datetime(2024, 1, 1, 5, 30))
        assert self.decode(settings, wire, True, "UTC") == dt.datetime(2024, 1, 1, tzinfo=UTC)
        wire = serialization.encode(self.field, dt.datetime(2024, 1, 1, tzinfo=UTC))
        assert self.decode(settings, wire, False, "Asia/Kolkata") == dt.datetime(2024, 1, 1, 5, 30)
        assert self.decode(settings, wire, False, "UTC") == dt.datetime(2024, 1, 1)

    def test_a_text_without_offset_is_of_the_default_zone(self, settings):
        assert self.decode(settings, "2024-01-01T05:30:00", True, "Asia/Kolkata") == dt.datetime(2024, 1, 1, tzinfo=UTC)
        assert self.decode(settings, "2024-01-01T05:30:00", False, "UTC") == dt.datetime(2024, 1, 1, 5, 30)

    def test_what_is_out_of_range_in_utc_is_refused(self):
        with pytest.raises(ApplyError):
            serialization.decode(self.field, "0001-01-01T00:00:00+01:00")


class TestUnsendable:
    def test_a_type_whose_text_cannot_be_read(self):
        reason = serialization.why_unsendable(named(fields.NoWayBackField(max_length=9)))
        assert reason == "NoWayBackField does not define to_python(), so the text of a value cannot be read back"

    def test_through_a_foreign_key(self):
        class Odd(models.Model):
            key = fields.NoWayBackField(primary_key=True, max_length=9)

            class Meta:
                app_label = "masters"
                managed = False

        field = models.ForeignKey(Odd, models.CASCADE)
        field.contribute_to_class(type("Child", (models.Model,), {
            "__module__": __name__, "Meta": type("Meta", (), {"app_label": "masters", "managed": False}),
        }), "odd")  # fmt: skip
        assert "NoWayBackField" in serialization.why_unsendable(field)

    def test_a_primary_key_of_several_columns(self):
        field = models.CompositePrimaryKey("a", "b")
        assert "several columns" in serialization.why_unsendable(field)

    def test_all_others_can_be_sent(self):
        for name, case in {**CASES, **POSTGRESQL_CASES}.items():
            assert serialization.why_unsendable(named(case.make())) is None, name
        for model in (masters.Invoice, masters.Price, masters.Profile, Author, Book):
            for field in model._meta.concrete_fields:
                assert serialization.why_unsendable(field) is None, field


class TestOwnFields:
    def test_a_generated_column_of_a_custom_type(self):
        field = models.GeneratedField(
            expression=models.F("x"), output_field=fields.PointField(max_length=9), db_persist=True
        )
        assert serialization.encode(named(field), fields.Point(D(1), D(2))) == "1;2"

    def test_methods_that_raise_anything(self):
        class Broken(fields.PointField):
            def value_to_string(self, obj):
                raise KeyError("x")

            def to_python(self, value):
                raise RuntimeError("y")

        field = named(Broken(max_length=9))
        with pytest.raises(EncodeError):
            serialization.encode(field, fields.Point(D(1), D(2)))
        with pytest.raises(ApplyError):
            serialization.decode(field, "1;2")

    def test_a_field_that_writes_otherwise_is_not_unpacked_by_the_database(self):
        assert not recordsets._is_written_as_it_is(fields.ShoutField(max_length=9))
        assert recordsets._is_written_as_it_is(models.SlugField())


class TestPlain:
    @pytest.mark.parametrize(
        ("value", "wire"),
        [
            (None, None), (True, True), (5, 5), (1.5, 1.5), (float("nan"), "NaN"), (float("-inf"), "-Infinity"),
            ("a", "a"), (Shade.DARK, "dark"), (lazystr("lazy"), "lazy"), (D("1.50"), "1.50"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"), (dt.date(2024, 1, 2), "2024-01-02"),
            (dt.time(1, 2), "01:02:00"), (dt.timedelta(days=1), "1 00:00:00"), (b"ab", "YWI="),
            ({1: (D(1), {"x"})}, {"1": ["1", ["x"]]}), (Author(pk=5), 5),
        ],
        ids=str,
    )  # fmt: skip
    def test_values(self, value, wire):
        assert same(serialization.plain(value), wire)

    @pytest.mark.parametrize("value", [object(), Color.RED, [1, {"a": object()}]], ids=["object", "enum", "inside"])
    def test_others_are_refused(self, value):
        with pytest.raises(EncodeError):
            serialization.plain(value)


class TestPrimaryKeys:
    @pytest.mark.parametrize(
        ("model", "written", "text"),
        [
            (masters.Rate, "1.5", "1.50"),
            (masters.Rate, D("1E+3"), "1000.00"),
            (masters.Huge, "5", "5"),
            (masters.Word, 5, "5"),
            (masters.Token, "0" * 31 + "5", "00000000-0000-0000-0000-000000000005"),
            (masters.Moment, "2024-01-02T05:30:00+05:30", "2024-01-02T00:00:00+00:00"),
            (masters.Profile, "0" * 31 + "5", "00000000-0000-0000-0000-000000000005"),
        ],
        ids=str,
    )
    def test_have_one_text(self, model, written, text):
        assert serialization.pk_text(images.wire_pk(model, written)) == text
        again = images.python_pk(model, text)
        assert serialization.pk_text(images.wire_pk(model, again)) == text
