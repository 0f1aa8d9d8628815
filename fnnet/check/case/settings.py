"""The numerics in which a check runs, whatever the caller has set; all is as before afterwards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax
import numpy as np


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on standard error: what JAX and NumPy have to say of a rule is in the report."""
    logger, nowhere = logging.getLogger("jax"), logging.NullHandler()
    before = logger.propagate
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        logger.addHandler(nowhere)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(nowhere)
            logger.propagate = before


@contextmanager
def native() -> Iterator[None]:
    """The caller's numerics, but compiled, and free to meet a NaN or move an array."""
    with ExitStack() as stack:
        stack.enter_context(jax.disable_jit(False))
        stack.enter_context(jax.debug_nans(False))
        stack.enter_context(jax.debug_infs(False))
        stack.enter_context(jax.transfer_guard("allow"))
        yield


@contextmanager
def wide() -> Iterator[None]:
    """64 bits. Promotion is free: a function's float32 constants meet float64 arguments here."""
    with ExitStack() as stack:
        stack.enter_context(native())
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        yield


@contextmanager
def lenient() -> Iterator[None]:
    """JAX's standard promotion of dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
