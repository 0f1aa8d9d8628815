"""Inside `jax.shard_map` a textbook rule gives what autodiff gives, on every device."""

import jax
import jax.numpy as jnp
import numpy as np
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


def all_transforms(f):
    """All answers at once: compiling them one by one takes twice the time."""
    return lambda *args: {name: make(f)(*args) for name, make in TRANSFORMS.items()}


@pytest.mark.parametrize("check_vma", [True, False])
def test_grad_of_shard_map(check_vma):
    def answer(ops):
        loss = mapped(mean_over(net(ops), "d"), check_vma=check_vma)
        return jax.jit(all_transforms(loss))(*arguments())

    got = answer(hand)
    same(got, answer(auto))
    # and as on one device
    same(got, jax.jit(all_transforms(net(auto)))(*arguments()))


def test_grad_of_shard_map_eagerly():
    agree(lambda o: jax.grad(mapped(mean_over(net(o), "d")), 1)(*arguments()), hand, auto)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("reduced", [True, False])
def test_grad_in_shard_map(reduced, check_vma):
    """On each device, also where devices differ: unchecked, or with a loss of its own for each."""

    def answer(ops):
        f = all_transforms(mean_over(net(ops), "d") if reduced else net(ops))
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


def grads_for(f, *choices):
    """The gradients for several choices of arguments, and each as if it alone were asked for."""
    return lambda *args: {str(at): jax.grad(f, at)(*args) for at in choices}


@pytest.mark.parametrize("check_vma", [True, False])
def test_two_axes(check_vma):
    """Samples over one axis, the columns of w over the other: no argument is on one device only."""
    both = mesh(AxisType.Auto, AxisType.Auto)
    x, w, b = arguments()
    w, b = jnp.concatenate([w, w + 1], 1), jnp.concatenate([b, -b])
    how = {"mesh": both, "in_specs": (P("d"), P(None, "m"), P("m")), "check_vma": check_vma}

    def outside(ops):
        f = mapped(mean_over(net(ops), "d", "m"), **how)
        return jax.jit(grads_for(f, 0, 1, 2, ALL))(x, w, b)

    def inside(ops):
        f = grads_for(mean_over(net(ops), "d", "m"), 0, 1, 2, ALL)
        everywhere = {**how, "out_specs": P(("d", "m"))}
        return jax.jit(lambda *a: on_each_device(f, *a, **everywhere))(x, w, b)

    agree(outside, hand, auto)
    same(outside(hand), grads_for(net(auto), 0, 1, 2, ALL)(x, w, b))
    agree(inside, hand, auto)


@pytest.mark.parametrize("other", [AxisType.Auto, AxisType.Explicit])
def test_a_partly_manual_mesh(other):
    """`shard_map` over one axis of two; the other is XLA's, or explicit."""
    both = mesh(AxisType.Auto, other)
    x, w, b = arguments()
    w, b = jnp.concatenate([w, w + 1], 1), jnp.concatenate([b, -b])
    how = {"mesh": both, "axis_names": {"d"}}
    with jax.set_mesh(both):
        w = jax.device_put(w, jax.NamedSharding(both, P(None, "m")))
        b = jax.device_put(b, jax.NamedSharding(both, P("m")))

        def outside(ops):
            f = mapped(mean_over(net(ops), "d"), **how)
            return jax.jit(grads_for(f, 0, 1, ALL))(x, w, b)

        def inside(ops):
            f = grads_for(mean_over(net(ops), "d"), 0, 1, ALL)
            return jax.jit(lambda *a: on_each_device(f, *a, **how))(x, w, b)

        agree(outside, hand, auto)
        same(outside(hand), grads_for(net(auto), 0, 1, ALL)(x, w, b))
        agree(inside, hand, auto)


def test_arguments_marked_reduced():
    """A weight whose gradient is to be summed over devices later, by whoever marked it."""
    on = mesh(AxisType.Explicit)
    with jax.set_mesh(on):
        x, w, b = (
            jax.device_put(a, jax.NamedSharding(on, spec))
            for a, spec in zip(arguments(), DATA, strict=True)
        )

        def summed_later(ops):
            def local(x, w, b):
                w = lax.pcast(w, "d", to="reduced")
                found = grads_for(net(ops), 1, (0, 1))(x, w, b)
                types = jax.tree.map(lambda g: str(jax.typeof(g)), found)
                sums = jax.tree.map(lambda g: lax.psum(g, "d"), (found["1"], found["(0, 1)"][1]))
                return sums, types

            types = []

            def apart(*args):
                sums, found = local(*args)
                types.append(found)
                return sums

            got = jax.jit(jax.shard_map(apart, in_specs=DATA, out_specs=P()))(x, w, b)
            return got, types[0]

        (got, types), (want, want_types) = summed_later(hand), summed_later(auto)
        same(got, want)
        assert types == want_types
        assert "U:d" in types["1"]

        def through(ops):
            def loss(x, w):
                return net(ops)(x, jax.reshard(w, P(reduced={"d"})), b)

            return jax.jit(grads_for(loss, 1, (0, 1)))(x, w)

        agree(through, hand, auto)
        # None is a zero, on every device
        rule = register(lambda x, w: x * 2, lambda x, w: (x * 2, None), lambda _, g: (g * 2, None))

        def none(x, w):
            dw = jax.grad(lambda w: rule(x, lax.pcast(w, "d", to="reduced")).sum())(w)
            return lax.pcast(dw, "d", to="varying")

        zero = jax.jit(jax.shard_map(none, in_specs=DATA[:2], out_specs=P("d")))(x, w)
        assert not np.asarray(zero).any()


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
def test_outputs_without_a_cotangent(output, check_vma):
    """Their zeros vary as the outputs do."""
    x = jnp.arange(8.0) + 1

    def answer(f):
        grads = grads_for(lambda x, w: f(x, w)[output].sum(), 0, 1, (0, 1))
        how = {"in_specs": P("d"), "check_vma": check_vma}
        return jax.jit(lambda *a: on_each_device(grads, *a, **how))(x, x * 2)

    agree(answer, *_two_outputs())


def test_none_as_a_cotangent():
    rule = register(lambda x, s: x * 2, lambda x, s: (x * 2, None), lambda _, g: (g * 2, None))

    def answer(f):
        how = {"in_specs": (P("d"), P())}
        grads = grads_for(lambda x, s: f(x, s).sum(), 0, 1, (0, 1))
        return jax.jit(lambda *a: on_each_device(grads, *a, **how))(jnp.ones(8), jnp.ones(3))

    agree(answer, rule, lambda x, s: x * 2)


def test_a_rule_with_its_own_collective():
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
        loss = mapped(lambda x, w: jnp.sin(f(x, w)).sum(), **how)
        return jax.jit(grads_for(loss, 0, 1, (0, 1)))(x, w[:, 0])

    def inside(f):
        grads = grads_for(lambda x, w: jnp.sin(f(x, w)).sum(), 0, 1, (0, 1))
        return jax.jit(lambda *a: on_each_device(grads, *a, **how))(x, w[:, 0])

    agree(outside, rule, forward)
    agree(inside, rule, forward)


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
