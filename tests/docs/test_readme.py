"""The tutorial of the README and the how-to pages that go on from it, run as they stand, on a real RabbitMQ."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from importlib.metadata import entry_points

import kombu
import pytest

from tests import services
from tests.docs.blocks import ROOT, Runner

README = ROOT / "README.rst"
HOWTO = ROOT / "docs" / "howto"

pytestmark = pytest.mark.timeout(300)


def own_names(mark: str) -> dict[str, str]:
    """Names on the pages that would meet those of others on the broker, and the test's own."""
    return {
        "amqp://guest:guest@localhost:5672//": services.AMQP_URL,
        '"shop.changes"': f'"shop.changes.{mark}"',
        'CELERY_TASK_DEFAULT_QUEUE = "shop"': f'CELERY_TASK_DEFAULT_QUEUE = "shop.{mark}"',
        '"queue": "search"': f'"queue": "search.{mark}"',
        "-Q search": f"-Q search.{mark}",
        "-n search@%h": f"-n search.{mark}@%h",
        "-n shop@%h": f"-n shop.{mark}@%h",
        '"queue": "stats"': f'"queue": "stats.{mark}"',
        "--queue stats": f"--queue stats.{mark}",
        "-Q stats": f"-Q stats.{mark}",
        "-n stats@%h": f"-n stats.{mark}@%h",
    }


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The two projects of the README as they are at its end, with their workers running."""
    services.require("rabbitmq")
    mark = uuid.uuid4().hex[:12]
    runner = Runner(tmp_path_factory.mktemp("tutorial"), own_names(mark))
    try:
        runner.run(README)
        runner.run(HOWTO / "add-a-replica.rst")
        runner.run(HOWTO / "first-fill.rst")
        runner.run(HOWTO / "schema-contract.rst")
        yield runner
        assert runner.used == set(runner.names), "names that are no longer on the pages"
    finally:
        runner.stop()
        clean_broker(mark)


def clean_broker(mark: str) -> None:
    """Remove what the projects have declared."""
    with kombu.Connection(services.AMQP_URL) as connection:
        for queue in ("search", "dead_letter_search", "stats", "dead_letter_stats", "shop"):
            connection.default_channel.queue_delete(f"{queue}.{mark}")
        for exchange in ("shop.changes", "shop"):
            connection.default_channel.exchange_delete(f"{exchange}.{mark}")


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
    for project in ("shop", "shop_search", "shop_stats"):
        tutorial.call("python manage.py check --fail-level WARNING", project)
        tutorial.call("python manage.py makemigrations --check --dry-run", project)


def test_the_tests_of_the_how_to_pass(tutorial: Runner) -> None:
    files = tutorial.write_files(HOWTO / "testing.rst")
    assert files == ["shop/catalog/tests.py", "shop_search/listing/tests.py", "shop/catalog/test_network.py"]
    assert "Ran 1 test" in tutorial.call("python manage.py test catalog.tests 2>&1", "shop")
    assert "Ran 2 tests" in tutorial.call("python manage.py test listing.tests 2>&1", "shop_search")
    # An installed package brings its plugin along; a mere checkout does not.
    plugin = "" if entry_points(group="pytest11", name="django_cqrs_celery") else "-p django_cqrs_celery.pytest_plugin"
    command = f"python -m pytest {plugin} --ds shop.settings --rootdir . catalog/test_network.py"
    assert "1 passed" in tutorial.call(command, "shop")
