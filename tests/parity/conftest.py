import pytest
from django.apps import apps

if not apps.is_installed("mptt"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _nothing_noted():
    yield
    from tests.parity.masters import models as master
    from tests.parity.replicas import models as replica

    for model in (master.Account, replica.Account, replica.Parcel):
        model.calls.clear()
    replica.Account.fails_with.clear()


@pytest.fixture
def cqrs(settings):
    """Change the settings: ``cqrs(queue=…, master={…}, replica={…})``."""

    def change(master=None, replica=None, **top):
        now = settings.CQRS
        settings.CQRS = {
            **now, **top, "master": {**now.get("master", {}), **(master or {})},
            "replica": {**now.get("replica", {}), **(replica or {})},
        }  # fmt: skip

    return change
