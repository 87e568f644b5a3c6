from django.apps import AppConfig


class Replicas(AppConfig):
    name = "tests.parity.replicas"
    label = "parity_replicas"
