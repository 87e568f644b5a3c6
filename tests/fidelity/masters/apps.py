from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import pre_migrate


class MastersConfig(AppConfig):
    name = "tests.fidelity.masters"
    label = "masters"

    def ready(self):
        pre_migrate.connect(create_extensions, dispatch_uid="tests.fidelity")


def create_extensions(using, **kwargs):
    """PostgreSQL's hstore has to be there before the first table that uses it."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    from django.contrib.postgres.signals import get_hstore_oids, register_type_handlers

    with connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS hstore")
    get_hstore_oids.cache_clear()
    register_type_handlers(connection)
