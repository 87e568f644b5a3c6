"""A mapped subset: no events, fewer fields, other names; places go through hooks of the project."""

import os
import signal

from django.db import models

from django_cqrs_celery.mixins import ReplicaMixin


class Land(ReplicaMixin):
    CQRS_ID = "country"
    CQRS_MAPPING = {"iso": "code", "name": "label"}

    code = models.CharField(max_length=8, primary_key=True)
    label = models.CharField(max_length=100)


class Place(ReplicaMixin):
    CQRS_ID = "city"
    CQRS_MAPPING = {"id": "id", "name": "title", "country": "land_code", "population": "people"}

    id = models.BigIntegerField(primary_key=True)
    title = models.CharField(max_length=100)
    land_code = models.CharField(max_length=8)
    people = models.IntegerField()
    updates = models.IntegerField(default=0)

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        if mapped_data["title"] == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().cqrs_create(sync, mapped_data, previous_data=previous_data, meta=meta)

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        self.updates += 1
        return super().cqrs_update(sync, mapped_data, previous_data=previous_data, meta=meta)
