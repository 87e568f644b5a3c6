"""The tutorial of the README and the how-to pages that go on from it, run as they stand, on a real RabbitMQ."""

from __future__ import annotations

import textwrap
from importlib.metadata import entry_points

import pytest

from tests.docs.conftest import HOWTO
from tests.docs.running import Runner

pytestmark = pytest.mark.timeout(600)


def test_the_package_is_the_one_that_the_page_installs(tutorial: Runner) -> None:
    where = "import django_cqrs_celery\nprint(django_cqrs_celery.__file__)"
    assert tutorial.type("shop", where).startswith(str(tutorial.base / "environment"))


def test_the_readme_replicates_rows(tutorial: Runner) -> None:
    # The page itself was run, and what it says that is printed was compared, by the fixture.
    replica, master, beat = range(3)
    tutorial.wait_for(replica, "Consuming search.")
    tutorial.wait_for(master, "cqrs_relay", "succeeded")
    tutorial.wait_for(beat, "Sending due task", "cqrs_retry_dead_letters")
    tutorial.wait_for(replica, "cqrs_retry_dead_letters", "succeeded")


def test_the_worker_starts_without_a_warning(tutorial: Runner) -> None:
    log = tutorial.log(0)
    assert "WARNING" not in log and "ERROR" not in log and "CRITICAL" not in log and "Traceback" not in log, log


def test_the_projects_pass_the_checks(tutorial: Runner) -> None:
    code = """
    from django.core.management import call_command
    call_command("check", fail_level="WARNING")
    call_command("makemigrations", check_changes=True, dry_run=True)
    """
    for project in ("shop", "shop_search", "shop_stats"):
        tutorial.type(project, textwrap.dedent(code))


def test_the_tests_of_the_how_to_pass(tutorial: Runner) -> None:
    files = tutorial.write_files(HOWTO / "testing.rst")
    assert files == ["shop/catalog/tests.py", "shop_search/listing/tests.py", "shop/catalog/test_network.py"]
    assert "Ran 1 test" in tutorial.call("python manage.py test catalog.tests 2>&1", "shop")
    assert "Ran 2 tests" in tutorial.call("python manage.py test listing.tests 2>&1", "shop_search")
    # An installed package brings its plugin along; a mere checkout does not.
    plugin = "" if entry_points(group="pytest11", name="django_cqrs_celery") else "-p django_cqrs_celery.pytest_plugin"
    command = f"python -m pytest {plugin} --ds shop.settings --rootdir . catalog/test_network.py"
    assert "1 passed" in tutorial.call(command, "shop")
