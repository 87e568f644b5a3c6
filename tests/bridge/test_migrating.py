"""``cqrs_doctor --migrating`` reads a project for django-cqrs; after a move by the page it has nothing to say."""

from __future__ import annotations

import json
import shutil
import textwrap
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from django_cqrs_celery import migrating, migrating_rules
from django_cqrs_celery.checks_settings import MOVED
from tests.bridge import fleet as fleets

PROJECTS = Path(__file__).parent / "projects"


def read(root: Path) -> list[str]:
    return [str(each) for each in migrating.read(root)]


@pytest.fixture
def project(tmp_path):
    """Write files, read them: lines by ``file:line``."""

    def write(**files: str) -> dict[str, str]:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        found: dict[str, str] = {}
        for each in migrating.read(tmp_path):
            place = f"{each.path}:{each.line}"
            said = str(each).removeprefix(f"{place}: ")
            found[place] = f"{found[place]} | {said}" if place in found else said
        return found

    return write


def test_every_line_of_the_shop_that_has_to_change_is_named():
    found = read(PROJECTS / "shop")
    for place in (
        "requirements.txt:2: django-cqrs==3.1.0 → Write django-cqrs-celery.",
        "shop/models.py:5: from dj_cqrs.constants import ALL_BASIC_FIELDS → Write django_cqrs_celery.constants.ALL",
        "shop/models.py:6: from dj_cqrs.mixins import MasterMixin → Write django_cqrs_celery.mixins.MasterMixin.",
        "shop/settings.py:7: 'dj_cqrs' → Write django_cqrs_celery.",
        "shop/settings.py:21: the project has no Celery app → ",
        "shop/settings.py:21: beat does not know",
        "shop/settings.py:22: CQRS['transport'] → Celery is the transport",
        "shop/settings.py:23: CQRS['url'] → The broker is the Celery app's",
        "shop/settings.py:24: CQRS['exchange'] → Change it to a new name",
        "shop/settings.py:31: 'django-cqrs' → ",
        "deploy/nightly.sh:4: (look) cqrs_diff_master → It stays",
    ):
        assert any(line.startswith(place) for line in found), place


def test_every_line_of_the_replica_that_has_to_change_is_named():
    found = read(PROJECTS / "search")
    for place in (
        "Procfile:2: (look) cqrs_consume → It stays",
        "docker-compose.yml:4: (look) cqrs_consume → It stays",
        "search/migrations/0001_initial.py:3: import dj_cqrs.mixins → Write django_cqrs_celery.mixins.",
        "search/migrations/0001_initial.py:27: dj_cqrs.mixins.RawReplicaMixin → ",
        "search/settings.py:25: CQRS['queue'] → Give the service's queue a new name",
        "search/settings.py:26: CQRS[…]['delay_queue_max_size'] → It has no counterpart",
    ):
        assert any(line.startswith(place) for line in found), place


def test_imports_attributes_and_paths(project):
    found = project(
        a_dot_py="""
            import dj_cqrs.mixins
            from dj_cqrs.transport import RabbitMQTransport
            from dj_cqrs.controller.producer import produce
            from dj_cqrs.dataclasses import TransportPayload as Payload
            from dj_cqrs import nothing
            from unittest import mock

            class M(dj_cqrs.mixins.ReplicaMixin):
                CQRS_ID = "m"

            mock.patch("dj_cqrs.controller.producer.produce")
            Payload("SAVE", "m", {}, 1)
            self._common_serialization(None)
            logging.getLogger("django-cqrs.worker")
            text = "nothing about django-cqrs in prose"
        """
    )
    assert found["a.py:3"].endswith("Celery is the transport: delete it, and set CELERY_BROKER_URL.")
    assert "Nothing is published past the outbox" in found["a.py:4"]
    assert "django_cqrs_celery.dataclasses.TransportPayload" in found["a.py:5"]
    assert "has no counterpart" in found["a.py:6"]
    assert "django_cqrs_celery.mixins.ReplicaMixin" in found["a.py:9"]
    assert "Nothing is published past the outbox" in found["a.py:12"]
    assert "signal_type=…" in found["a.py:13"] and "to_cqrs_dict" in found["a.py:14"]
    assert "a.py:15" in found and "a.py:16" not in found


def test_hooks_that_could_not_be_called(project):
    found = project(
        models_dot_py="""
            from dj_cqrs.mixins import MasterMixin, ReplicaMixin as Base

            class Old(Base):
                CQRS_ID = "old"
                CQRS_SELECT_FOR_UPDATE = True

                @classmethod
                def cqrs_create(cls, sync, mapped_data):
                    pass

                def cqrs_update(self, sync, **kwargs):
                    pass

                @classmethod
                def cqrs_save(cls, master_data, previous_data=None, sync=False, meta=None):
                    pass

            class Other:
                def cqrs_create(self):
                    pass
        """
    )
    assert "(look) Old.CQRS_SELECT_FOR_UPDATE" in found["models.py:6"]
    assert "Give it the argument previous_data, or **kwargs." in found["models.py:9"]
    assert "models.py:12" not in found and "models.py:20" not in found
    assert "(look) Old.cqrs_save()" in found["models.py:16"]


COLUMNS = """
class Migration(migrations.Migration):
    operations = [
        migrations.AlterField("a", "x", models.IntegerField()),
        {}
    ]
"""
ALTERED = "migrations.AlterField(model_name={!r}, name='cqrs_revision', field=models.IntegerField(db_default=0)),"


def test_the_columns_of_revisions(project):
    settings = "CQRS = {'queue': 'q', 'exchange': 'e'}\nCelery()\nbeat_schedule()\n"
    first = "class Migration(A):\n    operations = [CreateModel('a', [('cqrs_revision', F(default=0))])]\n"
    assert project(settings_dot_py=settings) == {}
    for other in ("F()", "F(db_default=0, default=0)"):  # a replica's, and a master's that was made with this package
        assert project(app__migrations__0001_dot_py=first.replace("F(default=0)", other)) == {}
    found = project(app__migrations__0001_dot_py=first)
    assert list(found) == ["settings.py:1"] and "makemigrations --name cqrs_columns" in found["settings.py:1"]
    one = COLUMNS.format(ALTERED.format("a"))
    assert project(app__migrations__0002_cqrs_columns_dot_py=one) == {}
    two = COLUMNS.format(ALTERED.format("a") + ALTERED.format("b"))
    found = project(app__migrations__0002_cqrs_columns_dot_py=two)
    assert list(found) == ["app/migrations/0002_cqrs_columns.py:2"]
    assert "(look) alters the tables of 2 models in one transaction → Write atomic = False" in str(found)
    calm = two.replace("    operations", "    atomic = False\n    operations")
    assert project(app__migrations__0002_cqrs_columns_dot_py=calm) == {}


@pytest.mark.parametrize(
    "text", ["CQRS = dict(transport=1, queue='q')", "CQRS = {}\nCQRS['transport'] = 1\nCQRS['master']['url'] = 2"]
)
def test_settings_in_other_forms(project, text):
    found = project(settings_dot_py=text)
    assert any("CQRS['transport']" in line for line in found.values())


def test_commands_in_scripts_and_code(project):
    found = project(
        run_dot_sh="python manage.py cqrs_consume -w2 --sigint-timeout 10\nmanage.py cqrs_bulk_load --clear=on -i x\n",
        task_dot_py='from django.core.management import call_command\ncall_command("cqrs_dead_letters", "retry")\n',
        Dockerfile="RUN pip install django-cqrs==3.1.0\n",
        pyproject_dot_toml='dependencies = [\n  "django-cqrs>=3",\n  "django-cqrs-celery",\n]\n',
    )
    assert "It stays" in found["run.sh:1"] and "Delete the option" in found["run.sh:1"]
    assert found["run.sh:2"] == "cqrs_bulk_load → --clear takes yes or no."
    assert "table of dead letters" in found["task.py:2"]
    assert "Write django-cqrs-celery." in found["Dockerfile:1"]
    assert "pyproject.toml:2" in found and "pyproject.toml:3" not in found


def test_nothing_is_imported_and_bad_files_are_named(project, tmp_path):
    ours = tmp_path / "venv" / "lib"
    ours.mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (ours / "x.py").write_text("import dj_cqrs")
    (tmp_path / "latin.py").write_bytes(b"a = '\xff'\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = project(broken_dot_py="def f(:", bomb_dot_py="raise SystemExit('imported')", nul_dot_py="a = '\0'")
    assert set(found) == {"broken.py:1", "latin.py:1", "nul.py:1"}


def test_what_is_said_to_exist_exists():
    assert {"transport", "url", "host", "port", "user", "password"} == migrating_rules.BROKER_KEYS <= set(MOVED)
    for path in migrating_rules.WITHOUT_COUNTERPART:
        assert "has no counterpart" not in migrating._import(path, None)[0]
    for path in ("mixins.MasterMixin", "mixins.RawReplicaMixin", "metas.ReplicaMeta", "registries.MasterRegistry",
                 "constants.SignalType", "signals.post_update", "admin.CQRSAdminMasterSyncMixin",
                 "dataclasses.TransportPayload"):  # fmt: skip
        module, _, name = path.rpartition(".")
        assert migrating._import(f"dj_cqrs.{module}", name)[0] == f"Write django_cqrs_celery.{path}."


def command(*arguments):
    out = StringIO()
    try:
        call_command("cqrs_doctor", *arguments, stdout=out)
        return 0, out.getvalue()
    except CommandError as error:
        return str(error), out.getvalue()


def test_the_command_prints_and_fails(tmp_path):
    said, text = command("--migrating", str(PROJECTS / "shop"))
    assert "to change" in said and "shop/settings.py:22: CQRS['transport'] → " in text
    said, text = command("--migrating", str(PROJECTS / "shop"), "--format", "json")
    answer = json.loads(text)
    assert answer["change"] == sum(each["level"] == "change" for each in answer["findings"]) > 5
    assert command("--migrating", str(tmp_path)) == (0, "")
    assert "no directory" in command("--migrating", str(tmp_path / "none"))[0]
    (tmp_path / "Procfile").write_text("a: manage.py cqrs_consume")
    assert command("--migrating", str(tmp_path))[0] == 0
    assert command("--migrating", str(tmp_path), "--strict")[0] == "0 to change, 1 to look at."


@pytest.mark.parametrize("name", ["shop", "search"])
def test_a_project_that_was_moved_by_the_page_has_nothing_left_to_change(name, tmp_path):
    """The commands of the page that need a database are not run here; ``test_fleet`` runs them."""
    names = {each: each for each in ("cqrs", "cqrs_celery", "search", "search_celery", "tasks")}
    service = fleets.Service(name, tmp_path, "postgres://nobody@127.0.0.1:1/none", names, Path("python"))
    assert [each for each in migrating.read(service.folder) if each.must]
    service.move(commands=("grep",))
    assert [str(each) for each in migrating.read(service.folder) if each.must] == []
    shutil.rmtree(service.folder)
