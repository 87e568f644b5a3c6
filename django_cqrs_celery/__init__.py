"""Copies of Django models in other services, carried by Celery."""

__version__ = "0.1.0"
