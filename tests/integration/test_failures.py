"""Processes killed, servers away, connections cut, all under load: in the end all is equal and nothing set aside."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests import services
from tests.integration import proxy, servers
from tests.integration.harness import stop_all, wait_until
from tests.integration.system import system

#: 2,000 changes one by one, some rows deleted again.
LOAD = """
for number in range(900):
    event = Event.objects.create(title=title, number=number)
    event.number += 1
    event.save()
    if number % 5 == 0:
        event.delete()
"""
BULK = "Event.cqrs.bulk_create([Event(title='bulk', number=n) for n in range(500)])"


#: Types of queues that a test runs with: the default one, or both where the type matters.
quorum = pytest.mark.parametrize("running", ["quorum"], indirect=True, scope="module")
both = pytest.mark.parametrize("running", ["quorum", "classic"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def running(request, tmp_path_factory, vhost):
    """A master and one replica on RabbitMQ and PostgreSQL."""
    services.require("rabbitmq", "postgresql")
    with system(
        tmp_path_factory.mktemp("failures"), engine="postgresql", broker="rabbitmq", vhost=vhost,
        replicas=("search",), queue_type=request.param,
    ) as built:  # fmt: skip
        built.last_worker = None
        yield built
        stop_all([built.last_worker] if built.last_worker else [])


@pytest.fixture
def workers(running):
    """The workers that a test has started, one to begin with; the last stays for the next test if it is alive."""
    found = [running.last_worker] if running.last_worker and running.last_worker.is_alive else []
    found = found or [running.search.worker("-c", "2")]
    found[0].forget_log()
    yield found
    *over, running.last_worker = found
    stop_all(over)


@pytest.fixture
def load(running, request):
    """Changes that come while the test does its harm; they have all been made when ``load()`` returns."""
    driver = running.master.new_driver()
    driver.send(LOAD, title=request.node.name)
    done = []

    def finish():
        if not done:
            done.append(driver.answer())

    half = f"result = Event.objects.filter(title={request.node.name!r}).count() > 100"
    wait_until(lambda: running.search.run(half), "the load is under way")
    yield finish
    finish()
    driver.stop(signal.SIGINT)


def all_well(running):
    """The end of each test."""
    running.wait_equal()
    assert running.letters() == []
    assert running.broker.count(f"dead_letter_{running.queue()}") == 0


def complaints(process):
    return [line for line in process.log().splitlines() if any(w in line for w in ("ERROR", "CRITICAL", "Traceback"))]


@contextlib.contextmanager
def batches_in_flight(running, processes=2):
    """Work for the worker, whose processes wait in the middle of it for as long as this lasts."""
    url = running.search.env["TESTBED_DATABASE_URL"]
    with servers.locked(url, "search_event"):
        running.master.run(BULK)
        running.master.run(BULK)
        wait_until(lambda: servers.waiting_for_locks(url) >= processes, "batches are in flight")
        yield


@quorum
def test_processes_of_the_pool_killed(running, workers, load):
    for _ in range(3):
        before = workers[0].children()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: before[0] not in workers[0].children(), "the process is gone")
    load()
    all_well(running)
    assert workers[0].is_alive


@both
def test_processes_of_the_pool_killed_in_the_middle_of_a_batch(running, workers):
    with batches_in_flight(running):
        for pid in workers[0].children():
            os.kill(pid, signal.SIGKILL)
        workers[0].wait_for_log("lost its process")
    all_well(running)
    assert workers[0].is_alive


@quorum
def test_worker_killed(running, workers, load):
    workers[0].kill()
    workers.append(running.search.worker("-c", "2"))
    load()
    all_well(running)


@both
def test_worker_killed_in_the_middle_of_a_batch(running, workers):
    with batches_in_flight(running):
        workers[0].kill()
    workers.append(running.search.worker("-c", "2"))
    all_well(running)


@quorum
def test_worker_stopped_and_started(running, workers, load):
    assert workers[0].stop(signal.SIGTERM) == 0
    assert complaints(workers[0]) == []
    workers.append(running.search.worker("-c", "2"))
    load()
    all_well(running)


@both
def test_worker_stopped_in_the_middle_of_a_batch(running, workers):
    """A warm shutdown waits for the batches that are in flight, and their changes are in the replica."""
    before = running.search.run("result = Event.objects.count()")
    with batches_in_flight(running):
        workers[0].send_signal(signal.SIGTERM)
        workers[0].wait_for_log("Warm shutdown")
    assert workers[0].popen.wait(30) == 0
    assert complaints(workers[0]) == []
    assert running.search.run("result = Event.objects.count()") > before
    workers.append(running.search.worker("-c", "2"))
    all_well(running)


@quorum
def test_master_killed(running, workers):
    """What a killed master had committed and not published is published by the relay."""
    driver = running.master.new_driver()
    driver.send(LOAD, title="master killed")
    made = "result = Event.objects.filter(title='master killed').count() > 100"
    wait_until(lambda: running.master.run(made), "the load is under way")
    driver.kill()
    # Rows that it had claimed are free when their lease is over; here at once.
    running.master.run("OutboxMessage.objects.update(leased_until=None, lease_token=None)")
    relay = running.master.manage("cqrs_relay")
    assert relay.popen.wait(60) == 0, relay.log()
    relay.kill()
    all_well(running)


@quorum
def test_relay_stopped_and_started(running, workers):
    """A relay that is asked to end finishes what it has in hand: no outbox row stays leased."""
    driver = running.master.new_driver(TESTBED_DISPATCH="relay")
    driver.send(LOAD, title="relay stopped")
    for number in (100, 200, 300):
        relay = running.master.manage("cqrs_relay", "--loop", "--interval", "0.05")
        relay.wait_for_log("Relaying")  # only now does it listen to signals
        come = f"result = Event.objects.filter(title='relay stopped').count() > {number}"
        wait_until(lambda come=come: running.search.run(come), "the relay is at work")
        assert relay.stop(signal.SIGTERM) == 0
        assert complaints(relay) == []
        assert running.master.run("result = OutboxMessage.objects.exclude(lease_token=None).count()") == 0
    driver.answer()
    driver.stop(signal.SIGINT)
    last = running.master.manage("cqrs_relay")
    assert last.popen.wait(60) == 0
    last.kill()
    all_well(running)


@quorum
def test_database_of_the_replica_away(running, workers, load):
    with servers.no_connections(running.search.env["TESTBED_DATABASE_URL"]):
        workers[0].wait_for_log("the batch is tried again")
        time.sleep(8)
    load()
    all_well(running)
    assert workers[0].is_alive


@quorum
def test_network_to_the_broker_cut(running):
    """The link of a worker goes away without a farewell, stays away for a while, and comes back."""
    address = urlsplit(running.broker.url)
    with proxy.Proxy(address.hostname, address.port) as link:
        host = f"{address.username}:{address.password}@127.0.0.1:{link.port}"
        url = urlunsplit(address._replace(netloc=host))
        worker = running.search.worker("-c", "2", TESTBED_BROKER_URL=url)
        try:
            if running.last_worker:
                stop_all([running.last_worker])
            with batches_in_flight(running):
                link.cut()
                worker.wait_for_log("Connection to broker lost")
            running.master.run(BULK)
            link.mend()
            all_well(running)
            assert worker.is_alive
        finally:
            stop_all([worker])


@both
def test_connections_closed_by_the_broker(running, workers, load, vhost):
    if vhost is None:
        pytest.skip("rabbitmqctl cannot be run here")
    for _ in range(2):
        workers[0].forget_log()
        servers.rabbitmqctl("close_all_connections", "--vhost", vhost, "test")
        workers[0].wait_for_log("Connection to broker lost")
        workers[0].wait_for_log("Consuming")
    load()
    all_well(running)
    assert workers[0].is_alive


@quorum
def test_beat_of_the_replica_under_load(running, workers, load, tmp_path):
    """Beat's retries go through the same queue as the changes, and disturb neither them nor the connection."""
    beat = running.search.celery("beat", "-s", str(tmp_path / "schedule"), "--pidfile=", name="beat")
    try:
        workers[0].wait_for_log("cqrs_retry_dead_letters")
        load()
        all_well(running)
        assert complaints(workers[0]) == []
        assert "Connection to broker lost" not in workers[0].log()
    finally:
        stop_all([beat])
