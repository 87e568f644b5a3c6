"""What the documentation says exists, and what exists is in the documentation."""

from __future__ import annotations

import ast
import datetime
import decimal
import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.core.management import find_commands, load_command_class
from django.db import models
from django.test import override_settings

import django_cqrs_celery
from django_cqrs_celery import conf, constants, mixins, schedules, serialization, tasks, topology
from django_cqrs_celery.dataclasses import TransportPayload, decode_message
from tests.docs.blocks import ROOT, Block, blocks

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.rst", *sorted(p for p in DOCS.rglob("*.rst") if "_build" not in p.parts)]
BLOCKS = [block for page in PAGES for block in blocks(page)]

sys.path.append(str(DOCS / "_ext"))
import cqrs_reference  # noqa: E402  (Sphinx's extension of the docs)


def of_language(*languages: str) -> Any:
    chosen = [block for block in BLOCKS if block.language in languages]
    assert chosen
    return pytest.mark.parametrize("block", chosen, ids=str)


@of_language("python")
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@of_language("json")
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_languages_are_known() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "json", "shell", "text", "plpgsql", "sql"}


# --- settings ------------------------------------------------------------------------------------------------------


def shown_settings() -> Iterator[Any]:
    for block in BLOCKS:
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CQRS":
                    yield pytest.param(ast.literal_eval(node.value), id=str(block))


@pytest.mark.parametrize("cqrs", list(shown_settings()))
def test_settings_that_are_shown_can_be_used(cqrs: dict[str, Any]) -> None:
    known = {(setting.section, setting.name) for setting in conf.SETTINGS}
    sections = {section for section, _ in known if section}
    for name, value in cqrs.items():
        names = [(name, key) for key in value] if name in sections else [("", name)]
        assert set(names) <= known
    with override_settings(CQRS=cqrs):
        assert [setting.problem() for setting in conf.SETTINGS if setting.problem()] == []


def test_every_setting_is_in_the_reference() -> None:
    page = (REFERENCE / "settings.rst").read_text()
    sections = re.findall(r"^\.\. cqrs-settings::[ ]*(\w*)$", page, re.MULTILINE)
    assert sections == ["", "master", "replica"]
    text = "\n".join(line for section in sections for line in cqrs_reference.setting_lines(section))
    for setting in conf.SETTINGS:
        assert f"``{setting.path}``\n   {setting.doc}\n\n   :Default: ``{setting.default!r}``" in text


# --- commands ------------------------------------------------------------------------------------------------------

COMMANDS = find_commands(str(Path(django_cqrs_celery.__file__).parent / "management"))


def test_every_command_is_in_the_reference_and_none_is_made_up() -> None:
    page = (REFERENCE / "commands.rst").read_text()
    headings = re.findall(r"^(cqrs_\w+)\n-+$", page, re.MULTILINE)
    generated = re.findall(r"^\.\. cqrs-command:: (\w+)$", page, re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)
    assert headings == generated


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_command_are_all_listed_and_explained(name: str) -> None:
    parser = load_command_class("django_cqrs_celery", name).create_parser("manage.py", name)
    text = "\n".join(cqrs_reference.option_lines(name))
    common = {"--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback", "--no-color"}
    common |= {"--force-color", "--skip-checks"}
    for action in parser._actions:
        long = [option for option in action.option_strings if option.startswith("--")]
        if not set(long) & common:
            assert all(f"``{option}``" in text for option in long)
            assert action.help or action.choices, f"{name} {long} has no help"


def command_lines() -> Iterator[Any]:
    for page in PAGES:
        # Commands that are joined by pipes are lines of their own.
        text = re.sub(r"\)?[ \\\n]+\| ", "\n", page.read_text())
        for found in re.findall(r"(?:manage\.py |``)(cqrs_\w+[^`\n]*)", text):
            words = shlex.split(found.rstrip(")"))
            if words[0] in COMMANDS:
                yield pytest.param(words, id=f"{page.name}: {found}")


@pytest.mark.parametrize("words", list(command_lines()))
def test_command_lines_that_are_shown_are_accepted(words: list[str]) -> None:
    name, *arguments = words
    if not arguments:
        return  # named, not called
    parser = load_command_class("django_cqrs_celery", name).create_parser("manage.py", name)
    parser.called_from_command_line = False
    parser.parse_args(arguments)


def task_names() -> set[str]:
    tasks.cqrs_apply.app.finalize()
    return {name for name in tasks.cqrs_apply.app.tasks if name.startswith("django_cqrs_celery.")}


def test_names_of_the_project_that_are_mentioned_exist() -> None:
    known = {*COMMANDS, *TransportPayload.__dataclass_fields__, "cqrs_network"}
    known |= {name.rsplit(".", 1)[1] for name in task_names()}
    for side in (mixins.RawMasterMixin, mixins.ReplicaMixin):
        known |= set(dir(side)) | {field.name for field in side._meta.fields}
    for page in PAGES:
        assert set(re.findall(r"``(cqrs_[a-z_]+)", page.read_text())) <= known, page


def test_the_two_commands_of_the_readme_are_in_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)


# --- tasks ---------------------------------------------------------------------------------------------------------


def test_every_task_and_every_entry_of_beat_is_in_the_reference() -> None:
    page = (REFERENCE / "tasks.rst").read_text()
    assert set(re.findall(r"^``(django_cqrs_celery\.tasks\.\w+)``$", page, re.MULTILINE)) == task_names()
    rows = re.findall(r"^(cqrs-[\w-]+) +``([\w.]+)`` +(\d*) ?(\w+)$", page, re.MULTILINE)
    units = {"seconds": 1, "hour": 3600}
    shown = {name: (task, int(number or 1) * units[unit]) for name, task, number, unit in rows}
    assert shown == {name: (e["task"], e["schedule"]) for name, e in schedules.beat_schedule().items()}


# --- models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [mixins.RawMasterMixin, mixins.RawReplicaMixin, mixins.ReplicaMixin])
def test_every_attribute_and_hook_is_in_the_reference(side: type) -> None:
    page = (REFERENCE / "models.rst").read_text()
    inherited = {"Meta", "objects", "cqrs", "DoesNotExist", "MultipleObjectsReturned", "NotUpdated", "id"}
    for name in set(vars(side)) - inherited:
        if not name.startswith(("_", "get_next_by_", "get_previous_by_")):
            assert re.search(rf"(Mixin\.{name}$|``{name}``)", page, re.MULTILINE), name


MODELS = [block for block in blocks(REFERENCE / "models.rst") if block.language == "python"]


@pytest.mark.parametrize("block", MODELS, ids=str)
def test_models_that_are_shown_work(block: Block) -> None:
    """In a process of their own: they join the registries."""
    code = textwrap.dedent(
        """
        import sys
        import django
        from django.conf import settings

        settings.configure(
            INSTALLED_APPS=["django.contrib.contenttypes", "django_cqrs_celery"], USE_TZ=True,
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            CQRS={"queue": "docs"},
        )
        django.setup()
        names = {"__name__": "django_cqrs_celery.shown"}
        exec(sys.stdin.read(), names)

        from django.core.management import call_command
        from django_cqrs_celery.models import DeadLetter
        from django_cqrs_celery.tasks import cqrs_apply

        call_command("check", fail_level="ERROR")
        call_command("migrate", run_syncdb=True, verbosity=0)
        data = {"id": 1, "price": "1.50", "cqrs_revision": 0, "cqrs_updated": "2026-01-31T12:00:00Z"}
        change = {"signal_type": "SAVE", "cqrs_id": "product", "instance_pk": 1, "instance_data": data}
        if "ProductEvents" in names:
            assert cqrs_apply(changes=[change]) == {"applied": 1, "failed": 0}, DeadLetter.objects.values()
            assert names["ProductEvents"].events == [("saved", 1)]
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=block.text, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- message format ------------------------------------------------------------------------------------------------

FORMAT = REFERENCE / "message-format.rst"


def test_the_headers_are_as_written() -> None:
    shown = json.loads(next(block.text for block in blocks(FORMAT) if block.language == "json"))
    headers, properties = topology.headers(current_app, 1)
    assert list(shown) == list(headers)
    ids = ("id", "root_id")
    assert {k: v for k, v in shown.items() if k not in ids} == {k: v for k, v in headers.items() if k not in ids}
    assert properties["correlation_id"] == headers["id"]


def test_the_body_is_as_written() -> None:
    text = [block.text for block in blocks(FORMAT) if block.language == "json"][1]
    [shown] = decode_message(text)
    written = TransportPayload.from_dict(shown).to_dict()
    assert written == shown
    assert list(written) == list(shown)
    assert json.loads(text)[1]["version"] == constants.WIRE_VERSION
    assert f"**version {constants.WIRE_VERSION}**" in FORMAT.read_text()


def test_the_keys_of_a_change_are_as_written() -> None:
    rows = re.findall(r"^``(\w+)`` +(yes|no) ", FORMAT.read_text(), re.MULTILINE)
    change = TransportPayload(
        signal_type=constants.SignalType.SYNC, cqrs_id="x", instance_data={"cqrs_revision": 0}, instance_pk=1,
        queue="one", force=True,
    )  # fmt: skip
    assert [name for name, _ in rows] == list(change.to_dict())
    needed = {name: change.to_dict()[name] for name, need in rows if need == "yes"}
    assert TransportPayload.from_dict(needed) == TransportPayload(
        signal_type=constants.SignalType.SYNC, cqrs_id="x", instance_data={"cqrs_revision": 0}, instance_pk=1
    )


@pytest.mark.parametrize(
    ("field", "value", "wire"),
    [
        (models.FloatField(), float("-inf"), "-Infinity"),
        (models.DecimalField(max_digits=9, decimal_places=2), decimal.Decimal("12.50"), "12.50"),
        (models.DateField(), datetime.date(2026, 1, 31), "2026-01-31"),
        (
            models.DateTimeField(),
            datetime.datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=datetime.timezone.utc),
            "2026-01-31T12:00:00.123456+00:00",
        ),
        (models.TimeField(), datetime.time(12, 0, 0, 123456), "12:00:00.123456"),
        (models.DurationField(), datetime.timedelta(microseconds=-1), "-1 23:59:59.999999"),
    ],
)
def test_wire_values_are_as_written(field: models.Field, value: Any, wire: str) -> None:
    field.set_attributes_from_name("field")
    assert serialization.encode(field, value) == wire
    assert serialization.decode(field, wire) == value
    assert f'``"{wire}"``' in FORMAT.read_text()


def test_wrapped_json_is_as_written() -> None:
    field = models.JSONField()
    field.set_attributes_from_name("field")
    text = [block.text for block in blocks(FORMAT) if block.language == "json"][2]
    assert serialization.encode(field, {"__type__": "x"}) == json.loads(text)
    assert serialization.decode(field, json.loads(text)) == {"__type__": "x"}
