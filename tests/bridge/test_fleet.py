"""A fleet of django-cqrs services moves one service at a time: real django-cqrs, RabbitMQ, PostgreSQL and workers.

``CQRS_BRIDGE_CHANGES`` is the number of mixed changes each way; 5,000 in the long form.
"""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.bridge import fleet as fleets
from tests.integration.harness import wait_until

CHANGES = int(os.environ.get("CQRS_BRIDGE_CHANGES", "300"))
#: Seconds of load in each stretch of a switch-over.
STRETCH = float(os.environ.get("CQRS_BRIDGE_STRETCH", "1"))
LOAD = "import load\nresult = load.Load(seed).run(count)"
LOAD_UNTIL = "import load\nresult = load.Load(seed, tuple(others)).run_until(path)"
PATIENCE = 60 + CHANGES / 20

pytestmark = pytest.mark.timeout(900)


def test_a_django_cqrs_master_and_this_replica(fleet):
    fleet.search.move()
    worker = fleet.search.consume()
    shop, search = fleet.shop.driver(), fleet.search.driver()

    assert shop.run(LOAD, seed=1, count=CHANGES) >= CHANGES

    fleet.wait_equal(shop, search, PATIENCE)
    offers = search.run("result = [list(row) for row in Offer.objects.values_list('label', 'source')]")
    assert all(" in " in label and source == "shop" for label, source in offers)
    assert search.run(OPEN_LETTERS) == []
    worker.stop()


OPEN_LETTERS = """
from django_cqrs_celery.models import DeadLetter
result = list(DeadLetter.objects.open().values_list("cqrs_id", "instance_pk", "error_class", "error_message"))
"""


def test_this_master_and_a_django_cqrs_replica(fleet):
    fleet.search.consume()
    fleet.shop.move()
    shop, search = fleet.shop.driver(), fleet.search.driver()

    assert shop.run(LOAD, seed=2, count=CHANGES) >= CHANGES

    fleet.wait_equal(shop, search, PATIENCE)
    offers = search.run("result = [list(row) for row in Offer.objects.values_list('label', 'source')]")
    assert all(" in " in label and source == "shop" for label, source in offers)
    assert fleets.messages(f"dead_letter_{fleet.names['search']}") == 0


def test_a_fleet_is_switched_over_under_load(fleet, tmp_path):
    old_shop = fleet.shop.driver()
    old_worker = fleet.search.consume()
    ends = [tmp_path / f"end{number}" for number in range(3)]
    old_shop.send(LOAD_UNTIL, seed=3, others=[], path=str(ends[0]))
    time.sleep(STRETCH)

    # The replica: the new worker takes the old queue over, with what has gathered in it meanwhile.
    fleet.search.move()
    old_worker.stop()
    fleet.search.consume()
    search = fleet.search.driver()
    time.sleep(STRETCH)

    # The master: a new process works beside the old one, as in a rolling deployment, then alone.
    fleet.shop.move()
    new_shop = fleet.shop.driver()
    new_shop.send(LOAD_UNTIL, seed=4, others=[], path=str(ends[1]))
    time.sleep(STRETCH)
    ends[0].touch()
    by_old = old_shop.answer()
    old_shop.stop()
    ends[1].touch()
    by_new = new_shop.answer()
    new_shop.send(LOAD_UNTIL, seed=5, others=[3, 4], path=str(ends[2]))
    time.sleep(STRETCH)
    ends[2].touch()
    by_new += new_shop.answer()

    fleet.wait_equal(new_shop, search, PATIENCE + (by_old + by_new) / 20)
    assert by_old and by_new
    assert search.run(OPEN_LETTERS) == []
    wait_until(lambda: fleets.messages(fleet.names["search"]) == 0, "the old queue is empty")


def test_what_cannot_be_applied_is_kept_whichever_queue_it_is_in(fleet):
    """The queue of django-cqrs masters is not there yet, as for a new replica; its dead letters are."""
    queue, given_up = fleet.names["search"], f"dead_letter_{fleet.names['search']}"
    row = {"name": "A", "population": 1, "cqrs_revision": 0, "cqrs_updated": "2030-01-01 00:00:00+00:00"}
    good = {"signal_type": "SAVE", "cqrs_id": "country", "instance_pk": "a", "instance_data": {"iso": "a", **row}}
    other = {**good, "instance_pk": "c", "instance_data": {"iso": "c", **row}}
    fleet.search.move()
    fleets.put(given_up, json.dumps({**good, "instance_pk": "b", "retries": 30}), declare=True)

    worker = fleet.search.consume()
    bad = {
        "no JSON": "{", "a number": "123", "nothing": "null", "no key": json.dumps({"signal_type": "SAVE"}),
        "no model": json.dumps({**other, "cqrs_id": "unknown"}),
        "no time": json.dumps({**other, "expires": "tomorrow"}),
        "too late": json.dumps({**other, "expires": "2020-01-01T00:00:00+00:00"}),
    }  # fmt: skip
    for body in (*bad.values(), json.dumps(good)):
        fleets.put(fleet.names["cqrs"], body, key=f"cqrs.{queue}.country")

    search = fleet.search.driver()
    wait_until(lambda: search.run("result = list(Country.objects.values_list('iso', flat=True))") == ["a"], "it landed")
    wait_until(lambda: len(search.run(OPEN_LETTERS)) == len(bad) + 1, "each bad one is a dead letter")
    letters = search.run(OPEN_LETTERS)
    assert sorted(letter[1] for letter in letters if "given this change up" in letter[3]) == ["b"]
    assert {letter[2].rpartition(".")[2] for letter in letters} == {
        "DecodeError", "UnknownCQRSId", "ExpiredChange", "UndeliverableMessage"
    }  # fmt: skip
    assert fleets.messages(queue) == fleets.messages(given_up) == 0
    worker.stop()
