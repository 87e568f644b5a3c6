"""Settings of both services, as near to the defaults as each library allows.

Connections to the database are kept open (``CONN_MAX_AGE=None``), which serves the peer: it would open one a message.
"""

import json
import os

from benchmarks import environment as env

SECRET_KEY = "benchmark"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [env.LIBRARY, f"benchmarks.service.{env.SIDE}s"]
_server = env.postgresql()
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": env.database_name(env.SIDE),
        "HOST": _server["host"],
        "PORT": _server["port"],
        "USER": _server["user"],
        "PASSWORD": _server["password"],
        "CONN_MAX_AGE": None,
    }
}
CQRS = {"exchange": env.EXCHANGE, **({"queue": env.QUEUE} if env.SIDE == "replica" else {})}
if env.LIBRARY == env.PEER:
    CQRS |= {"transport": "dj_cqrs.transport.RabbitMQTransport", "url": env.AMQP_URL}
else:
    CELERY_BROKER_URL = env.AMQP_URL
    CELERY_WORKER_HIJACK_ROOT_LOGGER = False
if env.QUEUE_TYPE:
    CQRS["queue_type"] = env.QUEUE_TYPE
CQRS |= json.loads(os.environ.get("BENCH_CQRS", "{}"))
