import environment

from django_cqrs_celery.schedules import beat_schedule

SECRET_KEY = "testbed"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_cqrs_celery", "shop"]
DATABASES = {"default": environment.database()}

CQRS = {
    "exchange": environment.EXCHANGE,
    "queue_type": environment.QUEUE_TYPE,
    "master": {
        "dispatch": environment.DISPATCH, "replicas": environment.REPLICAS, "capture": environment.CAPTURE,
        **environment.EXTRA,
    },
}
CELERY_BROKER_URL = environment.BROKER_URL
CELERY_BROKER_TRANSPORT_OPTIONS = environment.BROKER_OPTIONS
CELERY_TASK_DEFAULT_QUEUE = environment.DEFAULT_QUEUE
CELERY_BEAT_SCHEDULE = beat_schedule(relay_seconds=0.5, retry_seconds=1, **environment.SYNC)
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
