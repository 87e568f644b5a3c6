"""The schema contract: what is exported, what does not fit, and which service goes first."""

from __future__ import annotations

import copy
import io
import json

import pytest
from django.core.management import CommandError, call_command
from django.db import models

from django_cqrs_celery import schema


def run(*args):
    out = io.StringIO()
    call_command("cqrs_schema", *args, stdout=out)
    return out.getvalue()


@pytest.fixture
def exported():
    return json.loads(run("export"))


@pytest.fixture
def check(tmp_path):
    """Run a check of a description; returns its report as JSON, whatever comes of it."""

    def check(description):
        path = tmp_path / "schema.json"
        path.write_text(json.dumps(description))
        out = io.StringIO()
        try:
            call_command("cqrs_schema", "check", str(path), "--format", "json", stdout=out)
        except CommandError as error:
            assert "do not fit" in str(error)
        report = json.loads(out.getvalue())
        assert report["fits"] is not bool(report["findings"])
        return report

    return check


def found(report, cqrs_id):
    return [(f["message"], f["deploy_first"]) for f in report["findings"] if f["cqrs_id"] == cqrs_id]


def test_export_describes_what_decides_whether_a_value_fits(exported):
    book = exported["models"]["book"]
    assert exported["cqrs_schema"] == 1 and book["primary_key"] == "id"
    assert book["fields"]["title"] == {"type": "CharField", "kind": "text", "null": False, "max_length": 100}
    assert book["fields"]["price"] == {
        "type": "DecimalField", "kind": "decimal", "null": False, "max_digits": 12, "decimal_places": 2,
    }  # fmt: skip
    # A foreign key is described by what it refers to.
    assert book["fields"]["author"]["kind"] == "integer"
    assert exported["models"]["ticket"]["fields"]["code"]["kind"] == "uuid"


def test_version_tells_of_every_change_and_of_nothing_else(exported):
    assert json.loads(run("export")) == exported
    versions = {model["version"] for model in exported["models"].values()}
    shapes = {json.dumps({**model, "version": None}, sort_keys=True) for model in exported["models"].values()}
    assert len(versions) == len(shapes) > 20  # models of the same fields have the same version


def test_export_of_some_models_into_a_file(tmp_path):
    path = tmp_path / "schema.json"
    run("export", "-c", "book", "-c", "author", "-o", str(path))
    assert sorted(json.loads(path.read_text())["models"]) == ["author", "book"]
    with pytest.raises(CommandError, match="nothing"):
        run("export", "-c", "nothing")
    with pytest.raises(CommandError, match="could not be written"):
        run("export", "-o", str(tmp_path / "no" / "folder"))


def test_master_and_replica_of_one_make_fit(exported, check):
    report = check(exported)
    for cqrs_id in ("author", "book", "node", "ticket", "country", "seat", "note"):
        assert found(report, cqrs_id) == []


BREAKS = [
    (lambda m: m["author"]["fields"]["name"].update(max_length=101), "author", "takes 100 characters", "replica"),
    (lambda m: m["author"]["fields"]["name"].update(max_length=None), "author", "has no limit", "replica"),
    (lambda m: m["author"]["fields"]["name"].update(null=True), "author", "may be null on the master", "replica"),
    (lambda m: m["author"]["fields"]["rating"].update(max=2**63 - 1), "author", "holds -2147483648 to", "replica"),
    (lambda m: m["author"]["fields"]["born"].update(kind="datetime"), "author", "is datetime on the master", "replica"),
    (lambda m: m["book"]["fields"]["price"].update(decimal_places=3), "book", "keeps 2 decimal places", "replica"),
    (lambda m: m["book"]["fields"]["price"].update(max_digits=13), "book", "takes 10 digits before", "replica"),
    (lambda m: m["book"]["fields"].pop("title"), "book", "title is required here", "master"),
    (lambda m: m["country"]["fields"].pop("population"), "country", "CQRS_MAPPING names 'population'", "master"),
    (lambda m: m["ticket"]["fields"].pop("code"), "ticket", "the primary key here", None),
    (lambda m: m.pop("seat"), "seat", "The master has no model", "master"),
]  # fmt: skip


def test_links_are_compared_by_what_they_lead_to(exported, check):
    article = exported["models"]["article"]["fields"]
    assert article["topics"]["kind"] == "links" and article["topics"]["to"]["kind"] == "integer"
    assert found(check(exported), "article") == []
    article["topics"]["to"] = {"kind": "text", "type": "CharField", "null": False, "max_length": 20}
    assert found(check(exported), "article") == [
        ("topics: the key of what it is linked to is text on the master and integer here.", "replica")
    ]


@pytest.mark.parametrize(("change", "cqrs_id", "message", "first"), BREAKS, ids=[b[2] for b in BREAKS])
def test_what_does_not_fit_is_named_with_the_service_to_be_deployed_first(
    exported, check, change, cqrs_id, message, first
):
    description = copy.deepcopy(exported)
    change(description["models"])
    before = check(exported)["findings"]
    fresh = [finding for finding in check(description)["findings"] if finding not in before]
    assert any(message in f["message"] and f["deploy_first"] == first for f in fresh), fresh
    assert {f["cqrs_id"] for f in fresh} == {cqrs_id}


def test_what_the_replica_does_not_keep_is_no_problem(exported, check):
    description = copy.deepcopy(exported)
    description["models"]["author"]["fields"]["fresh"] = {"kind": "json", "type": "JSONField", "null": True}
    description["models"]["unheard_of"] = {"primary_key": "id", "fields": {}}
    assert check(description) == check(exported)


def test_what_a_serializer_decides_is_said_not_to_be_compared(exported, check):
    description = copy.deepcopy(exported)
    description["models"]["author"] = {"primary_key": "id", "serializer": True}
    assert "author" in check(description)["not_compared"]


FITS = [
    (models.UUIDField(), models.CharField(max_length=36), True),
    (models.UUIDField(), models.CharField(max_length=35), False),
    (models.BigIntegerField(), models.TextField(), True),
    (models.AutoField(primary_key=True), models.PositiveIntegerField(), True),
    (models.IntegerField(), models.PositiveIntegerField(), False),
    (models.IntegerField(), models.BigIntegerField(), True),
    (models.DecimalField(max_digits=8, decimal_places=2), models.DecimalField(max_digits=8, decimal_places=3), False),
    (models.DecimalField(max_digits=8, decimal_places=2), models.CharField(max_length=10), True),
    (models.JSONField(), models.TextField(), False),
    (models.FileField(), models.CharField(max_length=100), True),
    (models.SlugField(), models.CharField(max_length=40), False),
]  # fmt: skip


@pytest.mark.parametrize(("master", "replica", "fits"), FITS)
def test_kinds_and_limits(master, replica, fits):
    for field in (master, replica):
        field.set_attributes_from_name("value")
    assert (not list(schema.misfits(schema.describe(master), schema.describe(replica)))) is fits


BAD = [
    ("{", "no JSON"),
    ("[1]", "no key 'cqrs_schema'"),
    ('{"cqrs_schema": "x"}', "expected a number"),
    ('{"cqrs_schema": 99}', "upgrade django-cqrs-celery"),
    ('{"cqrs_schema": 1}', "'models' is missing"),
    ('{"cqrs_schema": 1, "models": {"a": 3}}', "'a' is no object"),
    ('{"cqrs_schema": 1, "models": {"a": {}}}', "no 'primary_key'"),
    ('{"cqrs_schema": 1, "models": {"a": {"primary_key": "id"}}}', "no 'fields'"),
    ('{"cqrs_schema": 1, "models": {"a": {"primary_key": "id", "fields": {"b": 1}}}}', "without a 'kind'"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_file_that_is_no_schema_is_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / "schema.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=message):
        run("check", str(path))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CommandError, match="could not be read"):
        run("check", str(tmp_path / "none"))


def test_the_text_says_in_which_order_to_deploy(exported, tmp_path, capsys):
    exported["models"]["author"]["fields"]["name"]["max_length"] = 500
    exported["models"].pop("seat")
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(exported))
    out = io.StringIO()
    with pytest.raises(CommandError, match="do not fit"):
        call_command("cqrs_schema", "check", str(path), stdout=out)
    text = out.getvalue()
    assert "Deploy a replica with wider columns first" in text and "Deploy the master first" in text
