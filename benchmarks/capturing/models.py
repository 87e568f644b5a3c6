"""The same row three times."""

from django.db import models

from django_cqrs_celery.mixins import MasterMixin


class Columns(models.Model):
    name = models.CharField(max_length=100)
    email = models.CharField(max_length=200, default="", db_default="")
    balance = models.DecimalField(max_digits=12, decimal_places=2, default=0, db_default=0)
    note = models.TextField(default="", db_default="")

    class Meta:
        abstract = True


class Plain(Columns):
    pass


class ByORM(MasterMixin, Columns):
    CQRS_ID = "by_orm"
    CQRS_CAPTURE = "orm"


class ByTrigger(MasterMixin, Columns):
    CQRS_ID = "by_trigger"
    CQRS_CAPTURE = "trigger"
