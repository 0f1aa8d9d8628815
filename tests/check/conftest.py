"""The checker's own tests compile much and compute little: XLA's optimisations do not pay here."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def _compile_fast():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
