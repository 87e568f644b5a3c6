from django.apps import AppConfig


class Masters(AppConfig):
    name = "tests.parity.masters"
    label = "parity_masters"
