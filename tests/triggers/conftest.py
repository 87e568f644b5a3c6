"""The scratch project, and rows to write to."""

import pytest

from tests import services
from tests.conftest import ENGINES
from tests.triggers import scratch
from tests.triggers.stock import NOW, TABLE, heard, run


@pytest.fixture(params=ENGINES)
def project(request, tmp_path):
    services.require(request.param)
    with scratch.project(request.param, tmp_path) as made:
        made.engine = request.param
        yield made


@pytest.fixture
def stocks(engine, net):
    """Three rows that the replica has, at revision 0."""
    for number in (1, 2, 3):
        run(f"INSERT INTO {TABLE} (id, name, amount, cqrs_updated) VALUES ({number}, 'n{number}', {number}, {NOW})")
    assert heard(net) == [("SAVE", 1, 0), ("SAVE", 2, 0), ("SAVE", 3, 0)]
    return engine
