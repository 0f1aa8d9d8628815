"""The table of manual against automatic gradients: right on right rules, and not on wrong ones."""

import dataclasses
import math

import gradients
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import backprop

SIZES = (20, 12, 3)


@pytest.fixture(scope="module")
def case():
    params = backprop.init_mlp(jax.random.key(0), SIZES)
    rng = np.random.default_rng(0)
    x = rng.random((40, SIZES[0]), np.float32)
    y = np.eye(SIZES[-1], dtype=np.float32)[rng.integers(0, SIZES[-1], 40)]
    return params, x, y


def compare(case, loss=backprop.loss, manual=backprop.forward_and_backward):
    return gradients.compare(loss, manual, *case)


@pytest.fixture(scope="module")
def rows(case):
    return compare(case)


def test_every_leaf_in_both_dtypes(rows):
    leaves = ["loss", *(f"{layer}.{name}" for layer in range(2) for name in "wb")]
    assert [(row.leaf, row.dtype) for row in rows] == [
        (leaf, dtype) for dtype in ("float32", "float64") for leaf in leaves
    ]
    assert [row.shape for row in rows[:3]] == [(), (20, 12), (12,)]
    assert all(row.ok for row in rows)
    assert all(row.relative <= 1e-12 for row in rows if row.dtype == "float64")
    assert all(row.scale > 0 for row in rows)


def test_bfloat16_is_held_against_float32(case):
    """Its bound is of its own roundings: far from nothing, and too small for a wrong rule."""
    right = gradients.compare(backprop.loss, backprop.forward_and_backward, *case, bf16=True)
    assert [row.dtype for row in right[::5]] == ["bfloat16", "float32", "float64"]
    assert all(row.ok for row in right)
    assert all(1e-5 < row.relative < 0.03 for row in right[1:5])
    assert {row.bound for row in right[:5]} == {4 * 2 * 2 * 2**-7}
    wrong = gradients.compare(wrong_loss(1.2), backprop.forward_and_backward, *case, bf16=True)
    assert {row.leaf for row in wrong[:5] if not row.ok} == {"0.w", "0.b", "1.w", "1.b"}


def test_any_loss_in_its_precisions(case):
    lines = gradients.compare_losses(backprop.loss, *case, precision="bf16")
    assert [line.split(" by jax")[0] for line in lines] == [
        "by hand in float32 and",
        "by hand in bf16 and",
    ]
    assert len(gradients.compare_losses(backprop.loss, *case)) == 1
    for factor, dtype in ((1.01, "float32"), (-1, "float32")):
        with pytest.raises(gradients.Failure, match=f"disagree in .*, in {dtype}: by"):
            gradients.compare_losses(wrong_loss(factor), *case, precision="bf16")


def test_scale_is_the_largest_entry_of_the_automatic_gradient(case, rows):
    params, x, y = case
    grads = jax.grad(fnnet.plain(backprop.loss))(params, x, y)
    for row, g in zip(rows[1:], jax.tree.leaves(grads), strict=False):
        np.testing.assert_allclose(row.scale, np.max(np.abs(g)), rtol=1e-5)


def wrong_loss(factor: float, b_only: bool = False):
    """The same values, with a lin whose rule is off by `factor`."""

    def forward(x, w, b):
        return x @ w + b[None]

    def bwd(res, g):
        x, w = res
        k = jnp.asarray(factor, g.dtype)
        dw = x.T @ g
        return g @ w.T, dw if b_only else k * dw, k * g.sum(0)

    lin = fnnet.register(forward, lambda x, w, b: (forward(x, w, b), (x, w)), bwd, name="lin")

    def loss(params, x, y):
        (w1, b1), (w2, b2) = params
        return fnnet.mse(lin(fnnet.relu(lin(x, w1, b1)), w2, b2), y)

    return loss


@pytest.mark.parametrize("factor", [-1.0, 1.001])
def test_a_wrong_rule_is_seen_in_both_dtypes(case, factor):
    rows = compare(case, wrong_loss(factor))
    for row in rows:
        assert row.ok == (row.leaf == "loss"), row
        if row.leaf != "loss":
            np.testing.assert_allclose(row.relative, abs(factor - 1), rtol=1e-2)


def test_only_the_wrong_leaves_are_named(case):
    rows = compare(case, wrong_loss(2.0, b_only=True))
    assert {row.leaf for row in rows if not row.ok} == {"0.b", "1.b"}


def test_a_wrong_manual_pass_is_seen(case):
    def manual(params, x, y):
        loss, grads = backprop.forward_and_backward(params, x, y)
        return loss, [*grads[:-1], grads[-1]._replace(b=grads[-1].b + jnp.ones((), loss.dtype))]

    rows = compare(case, manual=manual)
    assert {row.leaf for row in rows if not row.ok} == {"1.b"}
    assert all(row.by_rules <= row.bound * row.scale for row in rows)


def test_nan_is_no_agreement(case):
    params, x, y = case
    x = np.full_like(x, np.nan)
    assert not any(row.ok for row in compare((params, x, y)) if not row.leaf.endswith("b"))


def test_gradients_that_are_all_zero_agree(case):
    """Zero weights: nothing reaches the first layer, and there is no scale to compare with."""
    _, x, y = case
    rows = compare((backprop.init_mlp(jax.random.key(0), SIZES, fnnet.init.zeros), x, y))
    assert rows[1].scale == 0
    assert rows[1].relative == 0
    assert all(row.ok for row in rows)


@pytest.mark.parametrize("x64", [False, True])
def test_float64_is_float64_and_the_configuration_is_as_before(case, x64):
    """In float64 a mistake of 1e-10 is seen, also where JAX is set to float32."""
    with jax.enable_x64(x64):
        wrong = {row.dtype for row in compare(case, wrong_loss(1 + 1e-10)) if not row.ok}
        assert wrong == {"float64"}
        assert jax.config.jax_enable_x64 is x64
        assert jnp.ones(1, float if x64 else jnp.float32).dtype == ("f8" if x64 else "f4")
        assert jax.config.jax_default_matmul_precision is None


def test_products_are_in_full_precision(case):
    """Else an accelerator's products would be taken for mistakes."""
    seen = []

    def loss(params, x, y):
        seen.append(jax.config.jax_default_matmul_precision)
        return backprop.loss(params, x, y)

    compare(case, loss)
    assert set(seen) == {"highest"}


def test_a_difference_without_a_scale_is_wrong():
    row = gradients.Row("w", (), "float32", scale=0.0, by_rules=1e-30, by_hand=0.0, bound=1e-5)
    assert not row.ok


def test_table(case):
    """A line for each dtype; where the gradients are the same numbers it says so."""
    head, *lines = gradients.table(compare(case, wrong_loss(2.0))).splitlines()
    assert head.split() == ["dtype", "by", "the", "rules", "by", "hand", "bound"]
    assert [line.split()[0] for line in lines] == ["float32", "float64"]
    assert [line.split("  ")[-1] for line in lines] == ["WRONG: 0.w, 0.b, 1.w, 1.b"] * 2
    assert "1.0e+00" in lines[0]
    same = gradients.Row("w", (), "float32", scale=2.0, by_rules=0.0, by_hand=3e-6, bound=1e-5)
    _, line = gradients.table([same]).splitlines()
    assert line.split("  ") == ["float32", "equal in every digit", "1.5e-06", "1.0e-05", "ok"]
    nan = dataclasses.replace(same, by_hand=math.nan)
    assert gradients.table([same, nan]).endswith("WRONG: w")
    assert " nan " in gradients.table([same, nan])
    assert max(map(len, gradients.TITLE.splitlines())) <= 80
