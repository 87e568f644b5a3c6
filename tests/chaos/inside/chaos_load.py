"""Load for a master: changes that a seed decides, each noted in a ledger in the transaction that makes it.

A token in a column of each row tells which change wrote it. The ledger, a table of the master's database, says which
token each row must have in the end; a token that is not in the ledger was never committed.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from typing import Any

from django.db import DatabaseError, IntegrityError, InterfaceError, connection, transaction
from django.db.models import QuerySet

from django_cqrs_celery import triggers

HOT = 8


class Undone(Exception):
    """Raised to have a transaction rolled back."""


class Writer:
    """One writer: it shares the hot rows with the others and has cold ones of its own."""

    def __init__(self, run: str, seed: int, first_token: int, deletes: bool) -> None:
        from shop import models

        self.models = models
        self.random = random.Random(seed)
        self.token = first_token
        self.run, self.deletes = run, deletes
        self.hot = [uuid.uuid5(uuid.NAMESPACE_OID, f"{run} hot {n}") for n in range(HOT)]
        self.countries = [f"{run}{n}"[-8:] for n in range(4)]
        self.cold: list[Any] = []
        self.cities: list[int] = []
        self.space = f"{run} {seed} {first_token}"

    # -- the ledger --

    def next_token(self) -> int:
        self.token += 1
        return self.token

    def note(self, table: str, pks: list[Any], gone: bool = False) -> None:
        with connection.cursor() as cursor:
            for pk in pks:
                cursor.execute(
                    "INSERT INTO chaos_ledger (tbl, pk, token) VALUES (%s, %s, %s)",
                    (table, str(pk), None if gone else self.token),
                )

    # -- changes --

    def event(self, pk: Any) -> None:
        """Save a row, whether or not there is one."""
        Event, token = self.models.Event, self.next_token()
        found = Event.objects.filter(pk=pk).first() or Event(pk=pk)
        found.title, found.number = f"token {token}", token
        found.details = {"token": token, "words": ["a", None, token / 7]}
        found.raw = token.to_bytes(4, "big")
        found.save()
        self.note("event", [pk])

    def remove_event(self, pk: Any) -> None:
        found = self.models.Event.objects.select_for_update().filter(pk=pk).first()
        if found is not None:
            found.delete()
            self.note("event", [pk], gone=True)

    def new_event(self) -> None:
        pk = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.space} {self.token}")
        self.event(pk)
        transaction.on_commit(lambda: self.cold.append(pk))

    def country(self, iso: str) -> None:
        Country, token = self.models.Country, self.next_token()
        found = Country.objects.filter(pk=iso).first() or Country(pk=iso)
        found.name, found.population = f"token {token}", token
        found.save()
        self.note("country", [iso])

    def city(self) -> None:
        City, token = self.models.City, self.next_token()
        iso = self.random.choice(self.countries)
        if not self.models.Country.objects.filter(pk=iso).exists():
            self.country(iso)
            token = self.next_token()
        made = City.objects.create(name=f"token {token}", country_id=iso, population=token)
        self.note("city", [made.pk])
        transaction.on_commit(lambda: self.cities.append(made.pk))

    def move_city(self) -> None:
        if not self.cities:
            return
        pk, token = self.random.choice(self.cities), self.next_token()
        found = self.models.City.objects.select_for_update().filter(pk=pk).first()
        if found is not None:
            found.name, found.population = f"token {token}", token
            found.save()
            self.note("city", [pk])

    def remove_country(self) -> None:
        """Delete a row and, by its cascade, those that refer to it."""
        iso = self.random.choice(self.countries)
        found = self.models.Country.objects.select_for_update().filter(pk=iso).first()
        if found is not None:
            cities = list(self.models.City.objects.filter(country_id=iso).values_list("pk", flat=True))
            found.delete()
            self.note("city", cities, gone=True)
            self.note("country", [iso], gone=True)

    def bulk(self) -> None:
        token = self.next_token()
        pks = [uuid.uuid5(uuid.NAMESPACE_OID, f"{self.space} bulk {token} {n}") for n in range(10)]
        self.models.Event.cqrs.bulk_create(
            [self.models.Event(pk=pk, title=f"bulk {token}", number=token) for pk in pks]
        )
        self.note("event", pks)
        transaction.on_commit(lambda: self.cold.extend(pks))

    def bulk_update(self) -> None:
        token = self.next_token()
        some = self.random.sample(self.cold, min(5, len(self.cold)))
        rows = self.models.Event.objects.filter(pk__in=some)
        pks = list(rows.select_for_update().order_by("pk").values_list("pk", flat=True))
        if triggers.captures(self.models.Event, "default"):
            QuerySet(self.models.Event).filter(pk__in=pks).update(title=f"bulk {token}", number=token)  # past Django
        else:
            self.models.Event.cqrs.bulk_update(rows.filter(pk__in=pks), title=f"bulk {token}", number=token)
        self.note("event", pks)

    def savepoint(self) -> None:
        """Three changes in one transaction, of which the middle one is taken back."""
        self.new_event()
        try:
            with transaction.atomic():
                self.event(self.random.choice(self.hot))
                raise Undone
        except Undone:
            pass
        self.event(self.random.choice(self.hot))

    def undone(self) -> None:
        self.event(self.random.choice(self.hot))
        self.new_event()
        raise Undone

    # -- one step --

    def step(self) -> None:
        dice, pick = self.random.random(), self.random.choice
        hot = pick(self.hot)
        with transaction.atomic():
            if dice < 0.25:
                self.new_event()
            elif dice < 0.45:
                self.event(hot)
            elif dice < 0.55:
                self.event(pick(self.cold) if self.cold else hot)
            elif dice < 0.65:
                self.city()
            elif dice < 0.72:
                self.move_city()
            elif dice < 0.78:
                self.country(pick(self.countries))
            elif dice < 0.82:
                self.savepoint()
            elif dice < 0.86:
                self.undone()
            elif dice < 0.89:
                self.bulk()
            elif dice < 0.92:
                self.bulk_update()
            elif not self.deletes:
                self.event(hot)
            elif dice < 0.98:
                self.remove_event(hot if dice < 0.96 or not self.cold else pick(self.cold))
            else:
                self.remove_country()


def write(run: str, seed: int, first_token: int, stop: str, pace: float, deletes: bool = True) -> dict[str, Any]:
    """Write until the file ``stop`` is there; says how many steps there were, and which errors ended some of them."""
    writer = Writer(run, seed, first_token, deletes)
    steps, errors = 0, {}
    while not os.path.exists(stop):
        try:
            writer.step()
        except Undone:
            pass
        except (IntegrityError, DatabaseError, InterfaceError) as error:
            name = type(error).__name__
            errors[name] = errors.get(name, 0) + 1
            connection.close_if_unusable_or_obsolete()
            if not connection.in_atomic_block and not connection.is_usable():
                connection.close()
        steps += 1
        time.sleep(pace)
    return {"steps": steps, "errors": errors}


def save_steadily(run: str, first_token: int, stop: str, pace: float) -> list[list[float]]:
    """Save rows one by one until the file ``stop`` is there: when each save began, and how long it took.

    Nothing is caught: a save that fails ends this with its error.
    """
    writer = Writer(run, 0, first_token, deletes=False)
    times = []
    while not os.path.exists(stop):
        began, start = time.time(), time.perf_counter()
        with transaction.atomic():
            writer.event(writer.random.choice(writer.hot) if writer.token % 3 else uuid.uuid4())
        times.append([began, time.perf_counter() - start])
        time.sleep(pace)
    return times
