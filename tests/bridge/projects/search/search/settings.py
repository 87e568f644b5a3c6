import os
from urllib.parse import urlsplit

SECRET_KEY = "search"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["dj_cqrs", "search"]

database = urlsplit(os.environ.get("DATABASE_URL", "postgres://postgres@127.0.0.1:5432/search"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database.path.lstrip("/"),
        "HOST": database.hostname,
        "PORT": str(database.port),
        "USER": database.username or "",
        "PASSWORD": database.password or "",
    }
}

CQRS = {
    "transport": "dj_cqrs.transport.RabbitMQTransport",
    "url": os.environ.get("BROKER_URL", "amqp://guest:guest@127.0.0.1:5672/"),
    "exchange": "cqrs",
    "queue": "search",
    "replica": {"CQRS_MAX_RETRIES": 5, "CQRS_RETRY_DELAY": 1, "delay_queue_max_size": 1000},
}

LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django-cqrs": {"handlers": ["console"], "level": "INFO"}},
}
