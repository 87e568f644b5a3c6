"""Two replicas of one master in processes of their own: the same flow over each broker, database, pool and dispatch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pytest

from tests import services
from tests.integration import harness
from tests.integration.system import system


@dataclass(frozen=True)
class Way:
    """One combination of what can be chosen."""

    broker: str
    engine: str
    queue_type: str = "quorum"
    #: A Celery pool for ``celery worker``, or None for ``cqrs_consume -w 2``.
    pool: str | None = "prefork"
    dispatch: str = "background"
    #: Who publishes in dispatch mode ``relay``: ``cqrs_relay --loop``, or beat and a worker of the master.
    relay: str | None = None

    def __str__(self):
        words = (self.broker, self.engine, self.queue_type, self.pool or "cqrs_consume", self.relay or self.dispatch)
        return "-".join(words)


WAYS = [
    Way("rabbitmq", "postgresql"),
    Way("rabbitmq", "mariadb", queue_type="classic", pool="threads", dispatch="on_commit"),
    Way("rabbitmq", "sqlite", pool="solo", dispatch="relay", relay="loop"),
    Way("rabbitmq", "postgresql", queue_type="classic", pool=None, dispatch="relay", relay="beat"),
    Way("redis", "postgresql", pool="prefork", dispatch="on_commit"),
    Way("redis", "mariadb", pool=None, dispatch="background"),
    Way("embedded", "sqlite", pool=None),
]


def start(built, way):
    """The processes of a way."""
    for project in built.replicas.values():
        if way.pool is None:
            yield project.manage("cqrs_consume", "-w", "2", "--loglevel", "INFO")
        else:
            yield project.worker("-P", way.pool, "-c", "1" if way.pool == "solo" else "2", ready=False)
    if way.relay == "loop":
        yield built.master.manage("cqrs_relay", "--loop", "--interval", "0.1")
    elif way.relay == "beat":
        schedule = str(built.master.logs / "schedule")
        yield built.master.celery("beat", "-s", schedule, "--pidfile=", name="beat")
        yield built.master.worker(queues=built.master.env["TESTBED_DEFAULT_QUEUE"], ready=False)


@pytest.fixture(scope="module", params=WAYS, ids=str)
def flow(request, tmp_path_factory, vhost):
    """A running system of one way, for all tests of this module."""
    way = request.param
    services.require(way.engine, *({way.broker} - {"embedded"}))
    with contextlib.ExitStack() as stack:
        built = stack.enter_context(
            system(
                tmp_path_factory.mktemp("flow"), engine=way.engine, broker=way.broker, vhost=vhost,
                queue_type=way.queue_type, dispatch=way.dispatch,
            )
        )  # fmt: skip
        processes = []
        stack.callback(lambda: harness.stop_all(processes))
        processes.extend(start(built, way))
        yield built


def test_create_update_delete(flow):
    flow.master.run(
        """
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
nl = Country.objects.create(iso="NL", name="Netherlands", population=17_900_000)
be = Country.objects.create(iso="BE", name="België")
City.objects.create(name="Utrecht", country=nl, latitude=Decimal("52.090833"), founded=date(47, 1, 1))
gent = City.objects.create(name="Ghent", country=be)
gent.name, gent.population = "Gent", 263_000
gent.save()
Event.objects.create(
    title="Relief of Leiden", happened=datetime(1574, 10, 3, 7, 0, 0, 1, tzinfo=timezone.utc),
    lasted=timedelta(days=-1, microseconds=1), details={"__type__": "x", "big": 2**62, "none": None},
    raw=bytes(range(256)),
)
gone = Event.objects.create(title="Gone")
gone.delete()
"""
    )
    flow.wait_equal()
    assert flow.search.run("result = Event.objects.count()") == 1
    flow.master.run("City.objects.get(name='Gent').delete()")
    flow.wait_equal()


def test_bulk_of_a_thousand(flow):
    flow.master.run("Event.cqrs.bulk_create([Event(title='bulk', number=n) for n in range(1000)])")
    flow.wait_equal("search")
    assert flow.search.run("result = Event.objects.filter(title='bulk').count()") == 1000
    flow.master.run(
        """
Event.cqrs.bulk_update(Event.objects.filter(title="bulk", number__gte=500), title="updated")
for event in Event.objects.filter(title="bulk", number__lt=300):
    event.delete()
"""
    )
    flow.wait_equal("search")
    assert flow.search.run("result = Event.objects.filter(title='updated', cqrs_revision=1).count()") == 500


def test_rollback(flow):
    before = flow.master.run("result = OutboxMessage.objects.count()")
    flow.master.run(
        """
try:
    with transaction.atomic():
        Country.objects.create(iso="XX", name="Never")
        Event.objects.all().first().delete()
        raise KeyError
except KeyError:
    pass
after = OutboxMessage.objects.count()
assert after <= before, after
Country.objects.create(iso="R1", name="After the rollback")
""",
        before=before,
    )
    flow.wait_equal()
    found = flow.search.run("result = list(Country.objects.filter(iso__in=['XX', 'R1']).values_list('iso', flat=True))")
    assert found == ["R1"]


def test_savepoint(flow):
    flow.master.run(
        """
with transaction.atomic():
    kept = Country.objects.create(iso="SV", name="kept")
    try:
        with transaction.atomic():
            kept.name = "undone"
            kept.save()
            Country.objects.create(iso="SW", name="never")
            raise KeyError
    except KeyError:
        pass
    Country.objects.create(iso="SX", name="later")
"""
    )
    flow.wait_equal()
    found = flow.search.run("result = dict(Country.objects.filter(iso__startswith='S').values_list('iso', 'name'))")
    assert found == {"SV": "kept", "SX": "later"}


def test_cascade(flow):
    flow.master.run(
        """
country = Country.objects.create(iso="CA", name="Parent")
for number in range(20):
    City.objects.create(name=f"Child {number}", country=country)
"""
    )
    flow.wait_equal()
    flow.master.run("Country.objects.get(iso='CA').delete()")
    flow.wait_equal()
    assert flow.search.run("result = City.objects.filter(country_id='CA').count()") == 0


def test_create_again_under_the_same_key(flow):
    flow.master.run(
        """
for round in range(5):
    country = Country.objects.create(iso="AG", name=f"Round {round}")
    country.save()
    if round < 4:
        country.delete()
"""
    )
    flow.wait_equal()
    assert flow.search.run("result = Country.objects.get(iso='AG').name") == "Round 4"


def test_second_replica_goes_through_its_hooks(flow):
    flow.master.run(
        """
country = Country.objects.create(iso="HK", name="Hooks")
City.objects.create(pk=987654, name="Hooked", country=country)
"""
    )
    flow.wait_equal()
    flow.master.run("City.objects.get(pk=987654).save()")
    flow.wait_equal()
    assert flow.replicas["stats"].run("result = Place.objects.get(pk=987654).updates") == 1


def test_child_before_its_parent(flow):
    """The parent's row is missing on the replica when the child comes; the parent's change releases the child."""
    flow.master.run(
        """
country = Country.objects.create(iso="LP", name="Late parent")
City.objects.create(name="Early child", country=country)
"""
    )
    flow.wait_equal()
    flow.search.run("City.objects.filter(country_id='LP').delete()\nCountry.objects.filter(iso='LP').delete()")
    flow.master.run("City.objects.get(country_id='LP').save()")
    harness.wait_until(lambda: flow.letters(status="waiting"), "the child waits for its parent")
    flow.master.run("Country.objects.get(iso='LP').save()")
    flow.wait_equal()
    assert not flow.letters(status="waiting")
    assert flow.letters(status__in=["resolved", "superseded"])


def test_nothing_is_left_over(flow):
    """Comes last: after all of the above nothing waits in the outbox, and what was set aside has come right."""
    pending = "result = OutboxMessage.objects.exclude(status=1).count()"
    harness.wait_until(lambda: flow.master.run(pending) == 0, "the outbox is empty")
    for name in flow.replicas:
        assert {letter["status"] for letter in flow.letters(name)} <= {"resolved", "superseded"}
    for process in harness.Process.running:
        log = process.log()
        assert "Traceback" not in log, process.name
        assert "ERROR" not in log, process.name
        assert "CRITICAL" not in log, process.name
