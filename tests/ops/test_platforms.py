"""The forms that other platforms' compilers are given, run here: the same numbers.

Where a rule has a form for GPUs or TPUs (`fnnet.rules.by_platform`), this machine's compiler would
see that for CPUs alone.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import fnnet
from tests.cases import Call, each_op_with
from tests.compare import assert_close, loss_of
from tests.ops.test_exact import ROWS, no_less_exact_than_the_best_peer

PLATFORMS = ["cuda", "tpu"]


@pytest.fixture
def lowered_for(monkeypatch):
    """A function that has programs lowered as for a platform; it says how many forms it chose."""
    chosen = []

    def lower(platform):
        def forms(*operands, default, **named):
            chosen.append(platform in named)
            return named.get(platform, default)(*operands)

        monkeypatch.setattr(lax, "platform_dependent", forms)
        jax.clear_caches()
        return chosen

    yield lower
    jax.clear_caches()


@each_op_with("platform", PLATFORMS, long=PLATFORMS)
def test_value_gradient_and_second_order(case: Call, platform, key, lowered_for):
    args = case.args(key)
    n = tuple(range(len(args)))

    def all_of(f):
        loss = loss_of(f)
        second = jax.grad(lambda *a: sum(jnp.sum(jnp.cos(g + 1)) for g in jax.grad(loss, n)(*a)), n)
        return jax.jit(lambda *a: (f(*a), jax.grad(loss, n)(*a), second(*a)))(*args)

    want = all_of(case.plain)
    lowered_for(platform)
    assert_close(all_of(case.op), want)


def test_softmax_has_a_form_for_gpus(lowered_for):
    chosen = lowered_for("cuda")
    jax.make_jaxpr(jax.grad(lambda z: fnnet.softmax(z)[0]))(jnp.ones(3))
    assert chosen == [True]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_digits(name, dtype, lowered_for):
    """As many as in the form for CPUs, the tail's too."""
    lowered_for("cuda")
    row = next(row for row in ROWS if row.name == name)
    no_less_exact_than_the_best_peer(row, dtype)
