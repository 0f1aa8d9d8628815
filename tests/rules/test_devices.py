"""What a program becomes for one device and for several."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from fnnet.rules import by_devices, gathered, plain

X = np.random.default_rng(0).normal(size=(4, 8, 8, 2))
COLLECTIVES = re.compile(r" (all-gather|all-reduce|all-to-all|collective-permute)\(")


def on_mesh(x, *spec):
    mesh = jax.make_mesh((2, 4), ("d", "m"), axis_types=(AxisType.Auto,) * 2)
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


def exchanges(f, *args):
    return COLLECTIVES.findall(jax.jit(f).lower(*args).compile().as_text())


def test_for_one_device_nothing_is_left_of_it():
    f = lambda x: gathered(x, {1: 1, 2: 3})  # noqa: E731
    text = jax.jit(f).lower(X).as_text()
    assert "sharding" not in text.lower()
    assert text.count("stablehlo.") == jax.jit(lambda x: x).lower(X).as_text().count("stablehlo.")


def test_only_its_axes_become_whole_and_only_of_more_parts_than_allowed():
    x = on_mesh(X, "d", "m")
    f = lambda most: lambda x: gathered(jnp.sin(x), {1: most, 2: 1})  # noqa: E731
    assert exchanges(f(8), x) == []
    assert exchanges(f(7), x) == ["all-gather"]  # of 8 devices: the other mesh axis may cut it too
    y = jax.jit(f(7))(x)
    assert y.sharding.spec == PartitionSpec("d")
    np.testing.assert_array_equal(y, np.sin(X) if y.dtype == X.dtype else jnp.sin(X))


def test_what_no_mesh_cuts_is_exchanged_by_nobody():
    assert exchanges(lambda x: gathered(x, {1: 1, 2: 1}), on_mesh(X, "d", None, None, None)) == []


@pytest.mark.parametrize("axes", [{"d", "m"}, {"m"}])
def test_inside_shard_map_only_axes_that_are_not_manual_count(axes):
    x = on_mesh(X, None, "m")
    f = jax.shard_map(
        lambda x: gathered(x, {0: 1, 1: 2}) * 2.0,
        mesh=x.sharding.mesh,
        in_specs=PartitionSpec(None, "m"),
        out_specs=PartitionSpec(None, "m"),
        axis_names=axes,
    )
    assert exchanges(f, x) == []
    np.testing.assert_array_equal(jax.jit(f)(x), X * 2)


def test_it_is_linear_and_its_own_transpose():
    f = lambda x: gathered(x, {1: 1})  # noqa: E731
    check_grads(lambda x: jnp.sin(f(x)), (X,), 2, ["fwd", "rev"])
    np.testing.assert_array_equal(jax.jit(jax.linear_transpose(f, X))(X)[0], X)
    for axis in range(4):
        y = jax.vmap(lambda x: gathered(x, {0: 1}), axis, axis)(on_mesh(X, None, "m"))
        np.testing.assert_array_equal(y, X)
    np.testing.assert_allclose(jet.jet(f, (X,), ([X, X],))[1][1], X, rtol=1e-15)


def test_mapped_over_an_axis_before_it_another_axis_becomes_whole():
    f = jax.vmap(lambda x: gathered(x, {0: 1}))
    assert jax.jit(f)(on_mesh(X, "d", "m")).sharding.spec == PartitionSpec("d")


def test_an_exported_program_keeps_it():
    x = on_mesh(X, "d", "m")
    f = jax.jit(lambda x: gathered(x, {1: 1}) * 2)
    again = jax.export.deserialize(jax.export.export(f)(x).serialize())
    assert exchanges(again.call, x) == ["all-gather"]


def test_plain_keeps_it():
    f = plain(lambda x: gathered(x, {1: 1}))
    assert exchanges(f, on_mesh(X, "d", "m")) == ["all-gather"]


def form(sign):
    return lambda x, y: sign * jnp.sin(x * y).sum(0)


TWO = lambda x, y: by_devices(form(1), form(-1), x, y)  # noqa: E731


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f,
        lambda f: jax.vmap(f, (1, 2), 1),
        lambda f: jax.grad(lambda x, y: f(x, y).sum()),
        lambda f: jax.grad(lambda x, y: f(x, y).sum(), 1),
        lambda f: lambda x, y: jax.jvp(f, (x, y), (y, x))[1],
        lambda f: jax.hessian(lambda x, y: f(x[0, 0], y[0, 0]).sum()),
        lambda f: jax.checkpoint(f),
        lambda f: lambda x, y: jax.lax.map(lambda x: f(x, y[0]), x),
    ],
)
def test_each_form_is_differentiated_and_mapped_by_itself(change):
    """The one for several devices differs here by its sign, so that it is seen which one ran."""
    y = X[::-1]
    f, want = jax.jit(change(TWO)), change(form(1))(X, y)
    np.testing.assert_allclose(f(X, y), want, rtol=1e-12)
    np.testing.assert_allclose(change(TWO)(X, y), want, rtol=1e-12)
    several = f(on_mesh(X, "d"), on_mesh(y))
    np.testing.assert_allclose(several, -np.asarray(want), rtol=1e-12)


def test_higher_derivatives_by_jet_are_of_the_form_that_is_right_anywhere():
    args = (X, X[::-1]), ([X, X], [X, X])
    for got, want in zip(jet.jet(TWO, *args)[1], jet.jet(form(-1), *args)[1], strict=True):
        np.testing.assert_allclose(got, want)
