"""The checker's own tests compile much and compute little: XLA's optimisations do not pay here."""

import contextlib

import jax
import pytest
from jax import monitoring


@pytest.fixture(autouse=True, scope="package")
def _compile_fast():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


_COUNT = [0]


def _count(name, seconds, **kwargs):
    _COUNT[0] += name.endswith("backend_compile_duration")


monitoring.register_event_duration_secs_listener(_count)


@pytest.fixture
def compilations():
    """``with compilations() as counted``: how many programs XLA compiled in there, `counted()`."""

    @contextlib.contextmanager
    def counting():
        before = _COUNT[0]
        yield lambda: _COUNT[0] - before

    return counting
