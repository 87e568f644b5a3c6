"""Settings of the test suite: one process that holds a master and a replica on every database engine that is up.

``tests.routing`` sends master models and replica models to the pair of databases that a test has chosen, so that a
missing ``using`` anywhere in the package fails a test.
"""

import os
from importlib.util import find_spec

import pymysql

from tests import services

pymysql.install_as_MySQLdb()

SECRET_KEY = "tests"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin",
    "django.contrib.postgres",
    "django_cqrs_celery",
    "tests.master_app",
    "tests.replica_app",
    "tests.fidelity.masters",
    "tests.fidelity.replicas",
]
#: The project of tests.parity; its tests are left out on a laptop without these two, and CI fails without them.
if services.IN_CI or all(find_spec(name) for name in ("mptt", "rest_framework")):
    INSTALLED_APPS += ["mptt", "rest_framework", "tests.parity.masters", "tests.parity.replicas"]
#: ImageField without Pillow: names travel, pictures are not looked at.
SILENCED_SYSTEM_CHECKS = ["fields.E210"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"

#: Engines of this run: CQRS_TEST_ENGINES=sqlite,postgresql,mariadb narrows it.
ENGINES = [
    engine
    for engine in os.environ.get("CQRS_TEST_ENGINES", "sqlite,postgresql,mariadb").split(",")
    if services.is_up(engine)
]
DATABASES = {"default": services.database("sqlite", "cqrs_default")}
for _engine in ENGINES:
    for _side in ("master", "replica"):
        DATABASES[f"{_engine}_{_side}"] = services.database(_engine, f"cqrs_{_engine}_{_side}")
#: These databases are thrown away: no commit has to be on the disk.
for _settings in DATABASES.values():
    if _settings["ENGINE"].endswith("sqlite3"):
        _settings["OPTIONS"]["init_command"] = "PRAGMA synchronous = OFF"
    elif _settings["ENGINE"].endswith("postgresql"):
        _settings["OPTIONS"] = {"options": "-c synchronous_commit=off"}
DATABASE_ROUTERS = ["tests.routing.Router"]

CQRS = {"queue": "cqrs_tests", "exchange": "cqrs_tests", "master": {"dispatch": "relay"}}
#: CQRS_TEST_CAPTURE=trigger runs the suite with the changes captured by the database.
CQRS["master"]["capture"] = "trigger" if services.BY_TRIGGER else "orm"
CELERY_BROKER_URL = "memory://"
