"""Ray, for tests of the cluster."""

import pytest


@pytest.fixture
def ray():
    """The package `ray`; the test's cluster is left at its end. Skips where it is not installed."""
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "cxrlines[ray]"')
    yield ray
    ray.shutdown()
