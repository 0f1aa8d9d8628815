"""Sharded arrays under jit, explicit and automatic: the answer and the shardings of autodiff."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fnnet.rules import register
from tests.rules.textbook import auto, hand, net, same

ALL = (0, 1, 2)
LAYOUTS = {
    "replicated": (P("d"), P(), P()),
    "by column": (P("d"), P(None, "m"), P("m")),
    "by row": (P("d"), P("m", None), P()),
    "by both": (P(), P("m", "d"), P("d")),
}


def mesh(kind):
    return jax.make_mesh((2, 4), ("d", "m"), axis_types=(kind, kind))


def placed(on, layout):
    rng = np.random.default_rng(2)
    return tuple(
        jax.device_put(rng.normal(size=shape), NamedSharding(on, spec))
        for shape, spec in zip(((8, 4), (4, 4), (4,)), layout, strict=True)
    )


def _batch(x):
    return x.reshape(x.shape[0], 1, x.shape[1])


TRANSFORMS = {
    "grad": lambda f: jax.grad(f, ALL),
    **{f"grad {i}": lambda f, i=i: jax.grad(f, i) for i in ALL},
    "hessian": lambda f: jax.hessian(f, 2),
    "grad of grad": lambda f: jax.grad(lambda *a: (jax.grad(f, 1)(*a) ** 2).sum(), 1),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f), ALL),
    "scan": lambda f: jax.grad(
        lambda x, w, b: lax.scan(lambda c, _: (c + f(x, w * c, b), None), f(x, w, b), length=2)[0],
        1,
    ),
    "vmap of grad": lambda f: (
        lambda x, w, b: jax.vmap(jax.grad(f, (1, 2)), (None, None, 0))(x, w, jnp.stack([b, b + 1]))
    ),
    # the mapped axis is itself sharded
    "vmap over samples": lambda f: (
        lambda x, w, b: jax.vmap(jax.grad(f, (0, 1)), (0, None, None))(_batch(x), w, b)
    ),
    "grad of vmap over samples": lambda f: jax.grad(
        lambda x, w, b: jax.vmap(f, (0, None, None))(_batch(x), w, b).sum(), (0, 1)
    ),
}


def agree_on(args, make):
    got, want = make(net(hand))(*args), make(net(auto))(*args)
    same(got, want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.sharding.spec == w.sharding.spec


@pytest.mark.parametrize("layout", LAYOUTS)
def test_explicit_axes(layout):
    def all_transforms(f):
        """All answers at once: compiling them one by one takes twice the time."""
        return lambda *args: {name: make(f)(*args) for name, make in TRANSFORMS.items()}

    on = mesh(AxisType.Explicit)
    with jax.set_mesh(on):
        agree_on(placed(on, LAYOUTS[layout]), lambda f: jax.jit(all_transforms(f)))


@pytest.mark.parametrize("at", [1, ALL])
def test_explicit_axes_eagerly(at):
    on = mesh(AxisType.Explicit)
    with jax.set_mesh(on):
        agree_on(placed(on, LAYOUTS["by column"]), lambda f: jax.grad(f, at))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_explicit_arrays_with_no_mesh_set(layout):
    """Under jit the mesh is the arguments' own."""
    args = placed(mesh(AxisType.Explicit), LAYOUTS[layout])

    def pulled(f):
        # starting from 1.0, as jax.grad does, autodiff itself would not know the mesh
        return jax.jit(lambda *args: jax.vjp(f, *args)[1](f(*args)))

    def pulled_for_w(f):
        return jax.jit(lambda x, w, b: jax.vjp(lambda w: f(x, w, b), w)[1](f(x, w, b)))

    agree_on(args, pulled)
    agree_on(args, pulled_for_w)


def test_one_device_gives_the_same():
    args = placed(mesh(AxisType.Explicit), LAYOUTS["by column"])
    with jax.set_mesh(mesh(AxisType.Explicit)):
        got = jax.jit(jax.grad(net(hand), ALL))(*args)
    want = jax.grad(net(auto), ALL)(*(jnp.asarray(np.asarray(a)) for a in args))
    same(jax.device_get(got), jax.device_get(want))


@pytest.mark.parametrize("at", [0, 1, 2, (0, 2)])
def test_pruned_on_an_explicit_mesh(at):
    on = mesh(AxisType.Explicit)
    with jax.set_mesh(on):
        args = placed(on, LAYOUTS["by column"])
        dots = [
            str(jax.make_jaxpr(jax.grad(net(ops), at))(*args)).count("dot_general[")
            for ops in (hand, auto)
        ]
    assert dots[0] == dots[1]


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("at", [0, 1, (0, 1)])
def test_outputs_without_a_cotangent_integers_and_options(output, at):
    def forward(x, w, i, *, s):
        return x * w * s, x + w, i + 1

    def bwd(res, g, s):
        x, w = res
        return g[0] * w * s + g[1], g[0] * x * s + g[1], None

    rule = register(forward, lambda *a, s: (forward(*a, s=s), a[:2]), bwd)
    on = mesh(AxisType.Explicit)
    with jax.set_mesh(on):
        x, w, _ = placed(on, (P("d"), P("m"), P()))
        w, i = jax.device_put((x + 1, jnp.arange(8)), NamedSharding(on, P("d")))
        for wrap in (jax.jit, lambda f: f):
            got, want = (
                wrap(jax.grad(lambda x, w, i, s, f=f: f(x, w, i, s=s)[output].sum(), at))(
                    x, w, i, 3.0
                )
                for f in (rule, forward)
            )
            same(got, want)
            assert jax.tree.map(jax.typeof, got) == jax.tree.map(jax.typeof, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_automatic_axes(layout):
    on = mesh(AxisType.Auto)
    args = placed(on, LAYOUTS[layout])
    for context in (contextlib.nullcontext(), jax.set_mesh(on)):
        with context:
            got = jax.jit(jax.grad(net(hand), ALL))(*args)
    want = jax.jit(jax.grad(net(auto), ALL))(*args)
    same(jax.device_get(got), jax.device_get(want))


@pytest.mark.parametrize("kinds", [(AxisType.Explicit, AxisType.Auto)])
def test_axes_of_two_kinds(kinds):
    on = jax.make_mesh((2, 4), ("d", "m"), axis_types=kinds)
    with jax.set_mesh(on):
        x, w, b = (
            jax.device_put(np.asarray(a), NamedSharding(on, spec))
            for a, spec in zip(
                placed(mesh(AxisType.Auto), LAYOUTS["replicated"]), (P("d"), P(), P()), strict=True
            )
        )
        for at in (1, ALL):
            agree_on((x, w, b), lambda f, at=at: jax.jit(jax.grad(f, at)))
