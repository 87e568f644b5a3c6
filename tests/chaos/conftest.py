"""Fixtures of the chaos tests: those of the integration tests."""

from tests.integration.conftest import pytest_runtest_makereport, vhost

__all__ = ["pytest_runtest_makereport", "vhost"]
