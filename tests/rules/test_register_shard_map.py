"""Inside `jax.shard_map` a textbook rule gives what autodiff gives, on every device."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fnnet.rules import register
from tests.rules.textbook import agree, arguments, auto, hand, net, same

ALL = (0, 1, 2)
DATA = (P("d"), P(), P())  # the samples are shared out, the weights are on every device


def mesh(*kinds):
    return jax.make_mesh((2, 4)[: len(kinds)], ("d", "m")[: len(kinds)], axis_types=kinds)


def mean_over(f, *axes):
    """The loss over all devices, from each one's share."""
    return lambda *args: lax.pmean(f(*args), axes)


def mapped(f, **how):
    how = {"mesh": mesh(AxisType.Auto), "in_specs": DATA, "out_specs": P()} | how
    return jax.shard_map(f, **how)


def on_each_device(f, *args, **how):
    """What f gives on each device, side by side."""

    def local(*args):
        return jax.tree.map(lambda a: a[None], f(*args))

    return mapped(local, **{"out_specs": P("d")} | how)(*args)


def _scanned(f):
    def loss(x, w, b):
        return lax.scan(lambda c, _: (c + f(x, w * c, b), None), f(x, w, b), length=3)[0]

    return jax.grad(loss, ALL)


TRANSFORMS = {
    "grad": lambda f: jax.grad(f, ALL),
    **{f"grad {i}": lambda f, i=i: jax.grad(f, i) for i in ALL},
    "jit": lambda f: jax.jit(jax.grad(jax.jit(f), ALL)),
    "hessian": lambda f: jax.hessian(f, 2),
    "grad of grad": lambda f: jax.grad(lambda *a: (jax.grad(f, 1)(*a) ** 2).sum(), 2),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f), ALL),
    "scan": _scanned,
    "vmap": lambda f: (
        lambda x, w, b: jax.vmap(jax.grad(f, ALL), (None, 0, None))(x, jnp.stack([w, 2 * w]), b)
    ),
}


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_grad_of_shard_map(transform, check_vma):
    def answer(ops):
        loss = mapped(mean_over(net(ops), "d"), check_vma=check_vma)
        return jax.jit(TRANSFORMS[transform](loss))(*arguments())

    agree(answer, hand, auto)
    # and as on one device
    same(answer(hand), TRANSFORMS[transform](net(auto))(*arguments()))


def test_grad_of_shard_map_eagerly():
    agree(lambda o: jax.grad(mapped(mean_over(net(o), "d")), ALL)(*arguments()), hand, auto)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_grad_in_shard_map(transform, reduced, check_vma):
    """On each device, also where devices differ: unchecked, or with a loss of its own for each."""

    def answer(ops):
        loss = mean_over(net(ops), "d") if reduced else net(ops)
        f = TRANSFORMS[transform](loss)
        return jax.jit(lambda *a: on_each_device(f, *a, check_vma=check_vma))(*arguments())

    agree(answer, hand, auto)


def test_a_cotangent_varies_as_its_argument():
    def varying(ops):
        found = []

        def local(*args):
            grads = jax.grad(net(ops), ALL)(*args)
            found.extend(jax.typeof(ct).manual_axis_type for ct in grads)
            return lax.psum(sum(g.sum() for g in grads), "d")

        jax.jit(mapped(local)).lower(*arguments())
        return found

    assert varying(hand) == varying(auto)
    assert [sorted(t.varying) for t in varying(hand)] == [["d"], [], []]


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("at", [0, 1, 2, ALL])
def test_two_axes(at, check_vma):
    """Samples over one axis, the columns of w over the other: no argument is on one device only."""
    both = mesh(AxisType.Auto, AxisType.Auto)
    specs = (P("d"), P(None, "m"), P("m"))
    x, w, b = arguments()
    w, b = jnp.concatenate([w, w + 1], 1), jnp.concatenate([b, -b])

    def outside(ops):
        f = mapped(mean_over(net(ops), "d", "m"), mesh=both, in_specs=specs, check_vma=check_vma)
        return jax.jit(jax.grad(f, at))(x, w, b)

    agree(outside, hand, auto)
    same(outside(hand), jax.grad(net(auto), at)(x, w, b))

    def inside(ops):
        f = jax.grad(mean_over(net(ops), "d", "m"), at)
        how = {"mesh": both, "in_specs": specs, "out_specs": P(("d", "m")), "check_vma": check_vma}
        return jax.jit(lambda *a: on_each_device(f, *a, **how))(x, w, b)

    agree(inside, hand, auto)


@pytest.mark.parametrize("other", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("at", [0, 1, ALL])
def test_a_partly_manual_mesh(at, other):
    """`shard_map` over one axis of two; the other is XLA's, or explicit."""
    both = mesh(AxisType.Auto, other)
    x, w, b = arguments()
    w, b = jnp.concatenate([w, w + 1], 1), jnp.concatenate([b, -b])
    with jax.set_mesh(both):
        w = jax.device_put(w, jax.NamedSharding(both, P(None, "m")))
        b = jax.device_put(b, jax.NamedSharding(both, P("m")))

        def outside(ops):
            f = mapped(mean_over(net(ops), "d"), mesh=both, axis_names={"d"})
            return jax.jit(jax.grad(f, at))(x, w, b)

        def inside(ops):
            f = jax.grad(mean_over(net(ops), "d"), at)
            how = {"mesh": both, "axis_names": {"d"}}
            return jax.jit(lambda *a: on_each_device(f, *a, **how))(x, w, b)

        agree(outside, hand, auto)
        same(outside(hand), jax.grad(net(auto), at)(x, w, b))
        agree(inside, hand, auto)


def _two_outputs():
    def forward(x, w):
        return x * w, x + w, jnp.int32(1)

    def bwd(res, g):
        x, w = res
        return (
            g[0] * w + g[1],
            g[0] * x + g[1],
        )

    return register(forward, lambda x, w: (forward(x, w), (x, w)), bwd), forward


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("at", [0, 1, (0, 1)])
def test_outputs_without_a_cotangent(output, at, check_vma):
    """Their zeros vary as the outputs do."""
    x = jnp.arange(8.0) + 1

    def answer(f):
        def grads(x, w):
            return jax.grad(lambda x, w: f(x, w)[output].sum(), at)(x, w)

        how = {"in_specs": P("d"), "check_vma": check_vma}
        return jax.jit(lambda *a: on_each_device(grads, *a, **how))(x, x * 2)

    agree(answer, *_two_outputs())


@pytest.mark.parametrize("at", [0, 1, (0, 1)])
def test_none_as_a_cotangent(at):
    rule = register(lambda x, s: x * 2, lambda x, s: (x * 2, None), lambda _, g: (g * 2, None))

    def answer(f):
        how = {"in_specs": (P("d"), P())}
        grads = jax.grad(lambda x, s: f(x, s).sum(), at)
        return jax.jit(lambda *a: on_each_device(grads, *a, **how))(jnp.ones(8), jnp.ones(3))

    agree(answer, rule, lambda x, s: x * 2)


@pytest.mark.parametrize("at", [0, 1, (0, 1)])
def test_a_rule_with_its_own_collective(at):
    """The sum over devices is in the forward: its cotangent is the same on all of them."""

    def forward(x, w):
        return lax.psum(x @ w, "d")

    def bwd(res, g):
        x, w = res
        return jnp.outer(g, w), x.T @ g

    rule = register(forward, lambda x, w: (forward(x, w), (x, w)), bwd)
    x, w, _ = arguments(8)
    how = {"in_specs": (P("d"), P())}

    def outside(f):
        return jax.jit(jax.grad(mapped(lambda x, w: jnp.sin(f(x, w)).sum(), **how), at))

    def inside(f):
        grads = jax.grad(lambda x, w: jnp.sin(f(x, w)).sum(), at)
        return jax.jit(lambda *a: on_each_device(grads, *a, **how))

    agree(lambda f: outside(f)(x, w[:, 0]), rule, forward)
    agree(lambda f: inside(f)(x, w[:, 0]), rule, forward)


def test_integers_keys_and_options():
    def forward(x, i, key, *, s):
        return x[i] * s + jax.random.normal(key, x.shape[1:])

    def bwd(res, g, s):
        x, i = res
        return jnp.zeros_like(x).at[i].set(g * s), None, None

    rule = register(forward, lambda x, i, key, *, s: (forward(x, i, key, s=s), (x, i)), bwd)
    x, key = arguments(8)[0], jax.random.key(0)

    def answer(f):
        def local(x, s, i):
            me = jax.random.fold_in(key, lax.axis_index("d"))
            return jax.grad(lambda x: jnp.sin(f(x, i[0], me, s=s)).sum())(x)

        how = {"in_specs": (P("d"), P(), P("d"))}
        return jax.jit(lambda *a: on_each_device(local, *a, **how))(x, 2.0, jnp.array([0, 3]))

    agree(answer, rule, forward)
