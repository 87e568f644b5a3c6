"""The scratch project of these tests."""

import pytest

from tests import services
from tests.conftest import ENGINES
from tests.triggers import scratch


@pytest.fixture(params=ENGINES)
def project(request, tmp_path):
    services.require(request.param)
    with scratch.project(request.param, tmp_path) as made:
        made.engine = request.param
        yield made
