"""The table: a column for each field type, and the values that it must carry.

A value is left out of a pair of databases only where a plain Django model cannot keep it there; the table says on which
engines that is so, and ``test_fields`` measures whether it is true.
"""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal as D
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from tests.fidelity.fields import DecimalDecoder, Point, PointField, ShoutField, TagsField

UTC = dt.timezone.utc
INDIA = dt.timezone(dt.timedelta(hours=5, minutes=30))
NAN, INF = float("nan"), float("inf")
JSON_NULL = models.Value(None, models.JSONField())

SQLITE, POSTGRESQL, MARIADB = "sqlite", "postgresql", "mariadb"


@dataclass(frozen=True)
class Hard:
    """A value that some engines cannot keep: why, by engine."""

    value: Any
    why: dict[str, str]


@dataclass(frozen=True)
class Case:
    """A column: the field and its values."""

    make: Callable[[], models.Field]
    values: Sequence[Any]
    #: Why engines cannot keep NULL in it.
    null: dict[str, str] = field(default_factory=dict)

    def plain_values(self) -> list[tuple[Any, dict[str, str]]]:
        """Each value, and NULL, with the reasons why engines cannot keep it."""
        return [(None, self.null)] + [(v.value, v.why) if isinstance(v, Hard) else (v, {}) for v in self.values]


def _char(**kwargs: Any) -> Callable[[], models.Field]:
    return lambda: models.CharField(max_length=100, null=True, **kwargs)


def _int(kind: type[models.Field]) -> Callable[[], models.Field]:
    return lambda: kind(null=True)


def _decimal(digits: int, places: int) -> Callable[[], models.Field]:
    return lambda: models.DecimalField(max_digits=digits, decimal_places=places, null=True)


NO_NULL = dict.fromkeys((SQLITE, POSTGRESQL, MARIADB), "a file that is None is written as the empty text")
NO_NUL = {POSTGRESQL: "text cannot hold NUL"}
AS_FLOAT = {SQLITE: "decimals are stored as floats of 15 digits"}
AS_NUMERIC = {POSTGRESQL: "jsonb gives a float without fraction back as an integer"}
NO_SPECIAL_FLOATS = {MARIADB: "DOUBLE has no NaN and no infinities"}
TEXTS = [
    "", " ", "hello", " padded ", "q'\"\\`%s%%{}", "tab\tnewline\r\n", "Ж中ßÀ", "e\u0301 \u00e9", "\u202eright to left",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467", "line\u2028para\u2029next\x85", "\x01\x08\x1f\x7f\x9f",
    "\ufeffbom\ufffd\ufffe\uffff", "\ud7ff\ue000\U0010ffff", "</script>/ ", "null", "NaN", "0123", "1e5", "True",
    '{"__type__": "x"}', "$cqrs:json", Hard("a\x00b", NO_NUL),
]  # fmt: skip



def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


CASES: dict[str, Case] = {
    "big_integer": Case(_int(models.BigIntegerField), [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)]),
    "integer": Case(_int(models.IntegerField), [0, -1, 2**31 - 1, -(2**31)]),
    "small_integer": Case(_int(models.SmallIntegerField), [0, 2**15 - 1, -(2**15)]),
    "positive_big_integer": Case(_int(models.PositiveBigIntegerField), [0, 2**53 + 1, 2**63 - 1]),
    "positive_integer": Case(_int(models.PositiveIntegerField), [0, 2**31 - 1]),
    "positive_small_integer": Case(_int(models.PositiveSmallIntegerField), [0, 2**15 - 1]),
    "boolean": Case(_int(models.BooleanField), [True, False]),
    "char": Case(_char(), TEXTS),
    "text": Case(lambda: models.TextField(null=True), [*TEXTS, "Ж" * 100_000, "\\" * 1000]),
    "slug": Case(lambda: models.SlugField(null=True, allow_unicode=True), ["a-slug_1", "слаг"]),
    "email": Case(lambda: models.EmailField(null=True), ["a+b@example.com", "ä@пример.example"]),
    "url": Case(lambda: models.URLField(null=True), ["https://example.com/a?b=c&d=%20#ü"]),
    "date": Case(
        lambda: models.DateField(null=True),
        [dt.date(1, 1, 1), dt.date(1582, 10, 10), dt.date(1900, 2, 28), dt.date(2024, 2, 29), dt.date(9999, 12, 31)],
    ),
    "datetime": Case(
        lambda: models.DateTimeField(null=True),
        [
            dt.datetime(2024, 2, 29, 1, 2, 3, 456789, UTC), dt.datetime(2024, 1, 1, tzinfo=UTC),
            dt.datetime(2024, 1, 1, 12, 0, 0, 1, INDIA), dt.datetime(1, 1, 1, tzinfo=UTC),
            dt.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
            dt.datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        ],
    ),  # fmt: skip
    "time": Case(
        lambda: models.TimeField(null=True),
        [dt.time(0, 0), dt.time(0, 0, 0, 1), dt.time(12, 30), dt.time(23, 59, 59, 999999)],
    ),
    "duration": Case(
        lambda: models.DurationField(null=True),
        [
            dt.timedelta(0), dt.timedelta(microseconds=1), dt.timedelta(microseconds=-1), dt.timedelta(days=-1),
            dt.timedelta(days=3, seconds=5, microseconds=7), -dt.timedelta(days=1, hours=23, microseconds=1),
            dt.timedelta(microseconds=2**63 - 1), dt.timedelta(microseconds=-(2**63)),
            Hard(dt.timedelta.max, dict.fromkeys((SQLITE, MARIADB), "BIGINT counts microseconds")),
            Hard(dt.timedelta.min, dict.fromkeys((SQLITE, MARIADB), "BIGINT counts microseconds")),
        ],
    ),  # fmt: skip
    "decimal": Case(
        _decimal(20, 2),
        [
            D("0"), D("-0.01"), D("0.30"), D("1000"), D("1E+3"), D("1234567890123.45"),
            Hard(D("12345678901234567.89"), AS_FLOAT), Hard(D("-999999999999999999.99"), AS_FLOAT),
        ],
    ),  # fmt: skip
    "decimal_38_10": Case(
        _decimal(38, 10),
        [
            D("0.0000000001"), D("0.1"), D("-12345.0123456789"), Hard(D("1234567890.0123456789"), AS_FLOAT),
            Hard(D("1234567890123456789012345678.0123456789"), AS_FLOAT), Hard(D("9" * 28 + "." + "9" * 10), AS_FLOAT),
        ],
    ),  # fmt: skip
    "decimal_38_0": Case(_decimal(38, 0), [D("7"), Hard(D("-" + "9" * 38), AS_FLOAT), Hard(D(2**120), AS_FLOAT)]),
    "float": Case(
        lambda: models.FloatField(null=True),
        [
            0.0, 0.1, 1 / 3, 1e16, 1e22, 123456789.123456789, 2.0**53 + 2, 1.7976931348623157e308, 5e-324, -5e-324,
            2.2250738585072014e-308, 1.1125369292536007e-308, 1e-7,
            Hard(-0.0, dict.fromkeys((SQLITE, POSTGRESQL, MARIADB), "is written as 0")),
            Hard(NAN, {**NO_SPECIAL_FLOATS, SQLITE: "stores NaN as NULL"}),
            Hard(INF, NO_SPECIAL_FLOATS), Hard(-INF, NO_SPECIAL_FLOATS),
        ],
    ),  # fmt: skip
    "uuid": Case(
        lambda: models.UUIDField(null=True),
        [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID("12345678-1234-5678-1234-567812345678")],
    ),
    "binary": Case(lambda: models.BinaryField(null=True), [b"", b"\x00", bytes(range(256)), b"\xff\xfe" * 50_000]),
    "file": Case(
        lambda: models.FileField(null=True, max_length=200), ["some/dir/file.txt", "ümläut 'x'.txt", ""], NO_NULL
    ),
    "image": Case(lambda: models.ImageField(null=True, max_length=200), ["pictures/a b.png"], NO_NULL),
    "file_path": Case(lambda: models.FilePathField(path="/srv", null=True, max_length=200), ["/srv/files/ü.txt"]),
    "ip": Case(
        lambda: models.GenericIPAddressField(null=True),
        ["10.0.0.1", "255.255.255.255", "::", "2001:db8::1", "fe80::1:2:3"],
    ),
    "ip_v4": Case(lambda: models.GenericIPAddressField(protocol="ipv4", null=True), ["0.0.0.0", "192.168.1.254"]),
    "json": Case(
        lambda: models.JSONField(null=True),
        [
            JSON_NULL, True, False, 0, -1, 0.1, -0.5, Hard(1e16, AS_NUMERIC), "", "text", "\u2028\U0001f600",
            [], {}, [None], {"a": None},
            {"a": [1, 2.5, None, True, {"b": "Ж"}], "": {"": ""}}, {"big": [2**53 + 1, 2**63, -(2**70), 10**40]},
            [5e-324, 1.25e-7], Hard([1e308, 1e100], AS_NUMERIC), nested(30),
            Hard(nested(150), {MARIADB: "JSON is valid to a depth of 32"}),
            {"k" * 300: "v" * 100_000}, [[] for _ in range(1000)],
            {"__type__": "x", "__value__": 1}, {"__type__": "datetime", "__value__": "2024-01-01T00:00:00"},
            {"__type__": "uuid"}, [{"deep": {"__value__": 2, "__type__": "decimal"}}], {"$cqrs:json": "null"},
            {"$cqrs:json": "[1, 2]"}, {"$cqrs:json": {"$cqrs:json": "x"}}, {"a": {"$cqrs:json": "not json"}},
            "null", "NaN", {"n": "NaN", "i": "-Infinity"}, "__type__", {"hash": "12e400", "e": "1e999"},
            {"esc": "\\u005f\\u0024 \\ \" '"}, {"control": "\x01\x1f\x7f"},
            Hard({"nul": "a\x00b"}, {POSTGRESQL: "jsonb cannot hold NUL"}),
            Hard({"half": "\ud800"}, dict.fromkeys((POSTGRESQL, MARIADB), "JSON is of whole characters")),
            Hard([NAN], dict.fromkeys((SQLITE, POSTGRESQL, MARIADB), "NaN is no JSON")),
        ],
    ),  # fmt: skip
    "json_encoder": Case(
        lambda: models.JSONField(null=True, encoder=DjangoJSONEncoder), [{"a": 1.5, "b": [None]}, JSON_NULL, 7]
    ),
    "json_decoder": Case(
        lambda: models.JSONField(null=True, decoder=DecimalDecoder), [{"a": 1, "b": [None]}, JSON_NULL, "x", 10**30]
    ),
    "custom": Case(lambda: PointField(null=True, max_length=100), [Point(D("1.50"), D("-2")), Point(D(0), D("1E+2"))]),
    "custom_list": Case(lambda: TagsField(null=True), [[], ["a", "Ж", '"'], ["__type__", "$cqrs:json"]]),
    "custom_char": Case(lambda: ShoutField(max_length=20, null=True), ["LOUD", "Ж", ""]),
}


#: Cases of a second model without the fields for which a replica's PostgreSQL cannot read the wire values itself.
_NOT_UNPACKED = ("binary", "duration", "json", "json_encoder", "json_decoder", "custom", "custom_list", "custom_char")
UNPACKED_CASES = {name: case for name, case in CASES.items() if name not in _NOT_UNPACKED}


def _postgresql_cases() -> dict[str, Case]:
    from django.contrib.postgres import fields, search
    from django.db.backends.postgresql.psycopg_any import DateRange, DateTimeTZRange, NumericRange

    day = dt.date
    array = fields.ArrayField
    return {
        "integers": Case(lambda: array(models.BigIntegerField(null=True), null=True), [[], [1, None, 2**63 - 1]]),
        "texts": Case(lambda: array(models.TextField(), null=True), [["", "a,b", '"', "Ж\U0001f600", "{}", "NULL"]]),
        "decimals": Case(
            lambda: array(models.DecimalField(max_digits=38, decimal_places=10), null=True),
            [[D("1234567890123456789012345678.0123456789"), D("0E-10")]],
        ),
        "moments": Case(
            lambda: array(models.DateTimeField(), null=True), [[dt.datetime(2024, 1, 1, 1, 2, 3, 456789, UTC)]]
        ),
        "days": Case(lambda: array(models.DateField(), null=True), [[day(1, 1, 1), day(9999, 12, 31)]]),
        "uuids": Case(lambda: array(models.UUIDField(), null=True), [[uuid.UUID(int=5)]]),
        "flags": Case(lambda: array(models.BooleanField(), null=True), [[True, False]]),
        "floats": Case(lambda: array(models.FloatField(), null=True), [[0.1, -0.0, INF, NAN, 5e-324]]),
        "matrix": Case(lambda: array(array(models.IntegerField()), null=True), [[[1, 2], [3, 4]]]),
        "pairs": Case(lambda: fields.HStoreField(null=True), [{}, {"a": "b", "": None, "Ж": '"=>'}]),
        "integer_range": Case(
            lambda: fields.IntegerRangeField(null=True),
            [NumericRange(1, 10), NumericRange(None, 5), NumericRange(3, None), NumericRange(empty=True)],
        ),
        "big_integer_range": Case(lambda: fields.BigIntegerRangeField(null=True), [NumericRange(-(2**63), 2**63 - 1)]),
        "decimal_range": Case(
            lambda: fields.DecimalRangeField(null=True),
            [NumericRange(D("0.1"), D("12345678901234567890.12"), "[]"), NumericRange(None, None)],
        ),
        "date_range": Case(lambda: fields.DateRangeField(null=True), [DateRange(day(2024, 2, 29), day(2024, 3, 1))]),
        "datetime_range": Case(
            lambda: fields.DateTimeRangeField(null=True),
            [
                DateTimeTZRange(dt.datetime(2024, 1, 1, tzinfo=UTC), dt.datetime(2024, 1, 2, 0, 0, 0, 1, UTC), "(]"),
                DateTimeTZRange(None, None),
            ],
        ),
        "search": Case(lambda: search.SearchVectorField(null=True), ["", "'cat':1,3A 'it''s':2"]),
    }


def has_postgresql() -> bool:
    """Whether the driver is there, without which ``contrib.postgres`` cannot be imported."""
    try:
        import django.db.backends.postgresql.psycopg_any  # noqa: F401
    except ImportError:
        return False
    return True


POSTGRESQL_CASES: dict[str, Case] = _postgresql_cases() if has_postgresql() else {}


def same(one: Any, other: Any) -> bool:
    """Whether two Python values are equal to the last bit: types, the sign of zero and NaN included."""
    if isinstance(one, (bytes, memoryview)) and isinstance(other, (bytes, memoryview)):
        return bytes(one) == bytes(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other) or (one != one and other != other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other
