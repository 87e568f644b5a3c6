"""What django-cqrs loses between processes (measured on 3.1.0): here with real ones, on RabbitMQ and PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests import services
from tests.integration import proxy, servers
from tests.integration.conftest import vhost  # noqa: F401  (a fixture)
from tests.integration.harness import stop_all, wait_until
from tests.integration.system import system
from tests.parity.mixed import change


@pytest.fixture(scope="module")
def running(tmp_path_factory, vhost):  # noqa: F811
    """A master, and a replica with two workers of one process each."""
    services.require("rabbitmq", "postgresql")
    folder = tmp_path_factory.mktemp("parity")
    with system(folder, engine="postgresql", broker="rabbitmq", vhost=vhost, replicas=("search",)) as built:
        built.workers = [built.search.worker("-c", "1") for _ in range(2)]
        try:
            yield built
        finally:
            stop_all(built.workers)


@contextmanager
def master_behind_a_link(running):
    """A process of the master's project, and its link to the broker, which can be cut."""
    address = urlsplit(running.broker.url)
    with proxy.Proxy(address.hostname, address.port) as link:
        host = f"{address.username}:{address.password}@127.0.0.1:{link.port}"
        # What the process holds when it is killed is free for others after a second, not after a minute.
        driver = running.master.new_driver(
            TESTBED_BROKER_URL=urlunsplit(address._replace(netloc=host)),
            TESTBED_EXTRA=json.dumps({"outbox_lease": 1}),
        )
        try:
            yield driver, link
        finally:
            driver.kill()


def relay(running):
    """What beat runs on the master every few seconds, until nothing is pending."""

    def drained():
        running.master.run("call_command('cqrs_relay', verbosity=0)")
        return not running.master.run("result = OutboxMessage.objects.filter(status=0).exists()")

    wait_until(drained, "the outbox is empty", step=0.5)


SAVES = "for n in range(100):\n    Country.objects.create(iso=f'{mark}{n}', name='n')"


def all_well(running):
    running.wait_equal()
    assert running.letters() == []


def test_broker_away(running):
    """broker away during 100 saves"""
    with master_behind_a_link(running) as (driver, link):
        link.cut()
        driver.run(SAVES, mark="away")
        link.mend()
        relay(running)
        all_well(running)
        assert running.search.run("result = Country.objects.filter(iso__startswith='away').count()") == 100


def test_process_killed(running):
    """process killed between commit and publish"""
    with master_behind_a_link(running) as (driver, link):
        link.stall()
        driver.run(SAVES, mark="kill")
        os.kill(driver.pid, signal.SIGKILL)
        driver.popen.wait(30)
    relay(running)
    all_well(running)
    assert running.search.run("result = Country.objects.filter(iso__startswith='kill').count()") == 100


def test_two_quick_updates(running):
    """two workers, two quick updates of each of 1,000 rows"""
    running.master.run("Event.cqrs.bulk_create([Event(title='race') for n in range(1000)])")
    running.master.run(
        "for event in Event.objects.filter(title='race'):\n"
        "    for event.number in (1, 2):\n        event.save()\n"
    )  # fmt: skip
    all_well(running)
    assert running.search.run("result = Event.objects.filter(title='race', number=2).count()") == 1000


@pytest.mark.parametrize("body", [b"123", b"null", "expires"])
def test_bodies_that_kill(running, body):
    """a body that kills the worker"""
    if body == "expires":
        running.broker.publish_changes(running.queue(), change("country", "bad", 0, expires="tomorrow"))
    else:
        headers = {"lang": "py", "task": "django_cqrs_celery.tasks.cqrs_apply", "id": "bad", "retries": 0}
        running.broker.publish(running.queue(), body, headers=headers)
    wait_until(lambda: len(running.letters()) == 1, "the message is kept")
    running.search.run("DeadLetter.objects.all().delete()")
    running.master.run("Country.objects.create(iso=f'b{body}', name='after')", body=str(body)[-4:])
    all_well(running)
    assert all(worker.is_alive for worker in running.workers)


def test_worker_killed(running):
    """a worker killed with -9

    Its process is replaced, what it was at comes again; one process of each worker is enough to go on.
    """
    before = [worker.children() for worker in running.workers]
    for children in before:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
    running.master.run(SAVES, mark="nine")
    all_well(running)
    assert all(worker.is_alive for worker in running.workers)


def test_database_away(running):
    """replica database away for 80 s

    However long it takes: an outage burns no retries.
    """
    for worker in running.workers:
        worker.forget_log()
    with servers.no_connections(running.search.env["TESTBED_DATABASE_URL"]):
        running.master.run(SAVES, mark="base")
        wait_until(
            lambda: sum(worker.log().count("the batch is tried again") for worker in running.workers) >= 4,
            "batches were tried again and again",
        )
    all_well(running)
