"""The master: owns countries and cities."""

from django_cqrs_celery.schedules import beat_schedule
from example_project import common

SECRET_KEY = "nothing-here-is-secret"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["django_cqrs_celery", "example_project.master.places"]
ROOT_URLCONF = "example_project.pages"
DATABASES = common.databases("master")
USE_TZ = True

CELERY_BROKER_URL = common.broker_url()
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = common.MASTER_QUEUE
CELERY_BEAT_SCHEDULE = beat_schedule()

CQRS = {
    "exchange": common.EXCHANGE,
    "master": {
        # The master declares these queues itself: what is saved before a replica's first start waits there for it.
        "replicas": list(common.REPLICA_QUEUES.values()),
    },
}
