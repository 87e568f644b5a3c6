"""The replica search: copies countries and cities whole."""

from django_cqrs_celery.schedules import beat_schedule
from example_project import common

SECRET_KEY = "nothing-here-is-secret"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["django_cqrs_celery", "example_project.search.places"]
ROOT_URLCONF = "example_project.pages"
DATABASES = common.databases("search")
USE_TZ = True

CELERY_BROKER_URL = common.broker_url()
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULE = beat_schedule()

CQRS = {
    "exchange": common.EXCHANGE,
    "queue": common.REPLICA_QUEUES["search"],
}
