"""Under every transformation of JAX a registered function answers as autodiff does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from fnnet.rules import register
from tests.rules.textbook import agree, arguments, auto, hand, net, same

ALL = (0, 1, 2)


def _stacked(x, w, b):
    return tuple(jnp.stack([a, a * 0.5, a + 1]) for a in (x, w, b))


def _reused(f, *args):
    _, pull = jax.vjp(f, *args)
    return pull(1.0), pull(-2.5), pull(1.0)


def _interleaved(f, x, w, b):
    """One traced function, differentiated for different arguments, pulled back in another order."""
    jitted = jax.jit(f)
    _, for_w = jax.vjp(lambda w: jitted(x, w, b), w)
    _, for_x = jax.vjp(lambda x: jitted(x, w, b), x)
    _, for_all = jax.vjp(jitted, x, w, b)
    _, for_b = jax.vjp(lambda b: jitted(x, w, b), b)
    pulls = (for_all, for_b, for_x, for_w, for_all, for_x)
    return [pull(1.0 + i) for i, pull in enumerate(pulls)]


def _transposed_linear_part(f, *args):
    y, jvp = jax.linearize(f, *args)
    return y, jax.linear_transpose(jvp, *args)(1.0)


def _tangents(x, w, b):
    return x + 1, w * 2, b - 3


DERIVATIVES = {
    "value": lambda f, *a: f(*a),
    "grad": lambda f, *a: jax.grad(f, ALL)(*a),
    **{f"grad {i}": lambda f, *a, i=i: jax.grad(f, i)(*a) for i in ALL},
    "value_and_grad": lambda f, *a: jax.value_and_grad(f, ALL)(*a),
    "grad by keyword": lambda f, x, w, b: jax.grad(lambda w: f(b=b, w=w, x=x))(w),
    "vjp reused": _reused,
    "vjp interleaved": _interleaved,
    "vjp interleaved, jitted": lambda f, *a: jax.jit(functools.partial(_interleaved, f))(*a),
    "jacrev": lambda f, *a: jax.jacrev(f, ALL)(*a),
    "hessian": lambda f, *a: jax.hessian(f, ALL)(*a),
    "hessian by reverse": lambda f, *a: jax.jacrev(jax.jacrev(f, ALL), ALL)(*a),
    "jvp of grad": lambda f, *a: jax.jvp(jax.grad(f, ALL), a, _tangents(*a)),
    "jvp of grad, mixed": lambda f, x, w, b: jax.jvp(
        lambda x: jax.grad(f, 1)(x, w, b), (x,), (x + 1,)
    ),
    "grad of grad": lambda f, *a: jax.grad(lambda *a: (jax.grad(f, 1)(*a) ** 2).sum(), ALL)(*a),
    "third": lambda f, x, w, b: jax.grad(
        lambda b: jax.grad(lambda b: jax.grad(lambda b: f(x, w, b))(b).sum())(b).sum()
    )(b),
    "linearize": _transposed_linear_part,
    "jit outside": lambda f, *a: jax.jit(jax.grad(f, ALL))(*a),
    "jit inside": lambda f, *a: jax.grad(jax.jit(f), ALL)(*a),
    "jit in and out": lambda f, *a: jax.jit(jax.grad(jax.jit(jax.jit(f)), 2))(*a),
}

BATCHED = {
    **{
        f"vmap of grad, {axes}": lambda f, *a, axes=axes: jax.vmap(jax.grad(f, ALL), axes)(
            *(
                s if axis is not None else t
                for s, t, axis in zip(_stacked(*a), a, axes, strict=True)
            )
        )
        for axes in [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, None), (0, 0, 0)]
    },
    "vmap, other axes": lambda f, *a: jax.vmap(jax.grad(f, ALL), (1, -1, -1), out_axes=(1, 0, -1))(
        *(jnp.moveaxis(s, 0, axis) for s, axis in zip(_stacked(*a), (1, -1, -1), strict=True))
    ),
    **{
        f"grad of vmap, {axes}": lambda f, *a, axes=axes: jax.grad(
            lambda *a: jax.vmap(f, axes)(*a).sum(), ALL
        )(*(s if axis is not None else t for s, t, axis in zip(_stacked(*a), a, axes, strict=True)))
        for axes in [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0)]
    },
    "vmap of vmap": lambda f, x, w, b: jax.vmap(
        jax.vmap(jax.grad(f, ALL), (0, None, None)), (None, 0, 0)
    )(_stacked(x, w, b)[0], *_stacked(x, w, b)[1:]),
    "vmap of hessian": lambda f, *a: jax.vmap(jax.hessian(f, 1))(*_stacked(*a)),
    "hessian of vmap": lambda f, x, w, b: jax.hessian(
        lambda w: jax.vmap(f, (0, None, None))(_stacked(x, w, b)[0], w, b).sum()
    )(w),
    "jit of vmap": lambda f, *a: jax.jit(jax.vmap(jax.grad(f, ALL)))(*_stacked(*a)),
    "vmap of jit": lambda f, *a: jax.vmap(jax.grad(jax.jit(f), ALL))(*_stacked(*a)),
    "vmap, one cotangent": lambda f, *a: jax.vmap(jax.grad(f, 2), (None, 0, None))(
        a[0], _stacked(*a)[1], a[2]
    ),
}


def _scan_carry(f, x, w, b):
    return lax.scan(lambda c, _: (c - 0.1 * jax.grad(f, 1)(x, c, b), f(x, c, b)), w, length=3)


def _scan_loss(f, x, w, b, **how):
    def body(carry, x):
        return carry * 0.9 + f(x[None], w * carry, b), f(x[None], w, b * carry)

    carry, ys = lax.scan(body, jnp.float64(0.5), x, **how)
    return carry + ys.sum()


def _policies():
    policies = jax.checkpoint_policies
    return {
        "default": None,
        "nothing": policies.nothing_saveable,
        "everything": policies.everything_saveable,
        "dots": policies.dots_saveable,
        "dots, no batch": policies.dots_with_no_batch_dims_saveable,
        "names": policies.save_only_these_names("hidden"),
        "any but names": policies.save_any_names_but_these("hidden"),
        "offload": policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    }


def _named(f):
    return lambda x, w, b: checkpoint_name(f(checkpoint_name(x * 2.0, "hidden"), w, b), "hidden")


CONTROL = {
    "scan over grads": _scan_carry,
    "scan": lambda f, *a: jax.grad(functools.partial(_scan_loss, f), ALL)(*a),
    "scan, jitted": lambda f, *a: jax.jit(jax.grad(functools.partial(_scan_loss, f), ALL))(*a),
    "scan, reversed": lambda f, *a: jax.grad(
        functools.partial(_scan_loss, f, reverse=True, unroll=2), 1
    )(*a),
    "scan, hessian": lambda f, *a: jax.hessian(functools.partial(_scan_loss, f), 2)(*a),
    "scan in vmap": lambda f, *a: jax.vmap(
        jax.grad(functools.partial(_scan_loss, f), ALL), (0, None, 0)
    )(_stacked(*a)[0], a[1], _stacked(*a)[2]),
    "scan of checkpoint": lambda f, *a: jax.grad(
        functools.partial(_scan_loss, jax.checkpoint(f)), ALL
    )(*a),
    "fori_loop": lambda f, x, w, b: jax.grad(
        lambda w: lax.fori_loop(0, 3, lambda _, c: c + f(x, w * c, b), jnp.float64(0.5))
    )(w),
    "while_loop": lambda f, x, w, b: lax.while_loop(
        lambda c: f(x, c, b) > 0.01, lambda c: c - jax.grad(f, 1)(x, c, b), w
    ),
    "while_loop, forward value": lambda f, x, w, b: lax.while_loop(
        lambda c: c < 2, lambda c: c + f(x, w, b), jnp.float64(0)
    ),
    "map": lambda f, x, w, b: jax.grad(
        lambda *a: lax.map(lambda x: f(x[None], *a[1:]), a[0]).sum(), ALL
    )(x, w, b),
    **{
        f"cond {flag}": lambda f, *a, flag=flag: jax.jit(
            lambda flag, *a: jax.grad(lambda *a: lax.cond(flag, f, lambda *a: a[1].sum(), *a), ALL)(
                *a
            )
        )(flag, *a)
        for flag in (True, False)
    },
    "switch": lambda f, *a: jax.vmap(
        lambda i: jax.grad(
            lambda *a: lax.switch(
                i, [f, lambda x, w, b: f(x, 2 * w, b), lambda x, w, b: b.sum()], *a
            ),
            ALL,
        )(*a)
    )(jnp.arange(3)),
    **{
        f"checkpoint, {name}": lambda f, *a, policy=policy: jax.grad(
            jax.checkpoint(_named(f), policy=policy), ALL
        )(*a)
        for name, policy in _policies().items()
        if name != "offload"
    },
    "checkpoint, hessian": lambda f, *a: jax.hessian(jax.checkpoint(f), 1)(*a),
    "checkpoint in checkpoint": lambda f, *a: jax.grad(
        jax.checkpoint(lambda *a: jax.checkpoint(f)(*a) ** 2), 0
    )(*a),
    "checkpoint of scan": lambda f, *a: jax.grad(
        jax.checkpoint(functools.partial(_scan_loss, f)), ALL
    )(*a),
    "disable_jit": lambda f, *a: _without_jit(lambda *a: jax.grad(jax.jit(f), ALL)(*a), *a),
}


def _without_jit(f, *args):
    with jax.disable_jit():
        return f(*args)


# these run one by one, as they are; the others, for the sake of time, compiled together
EAGER = {
    "grad",
    "grad 1",
    "vjp reused",
    "vjp interleaved",
    "jit inside",
    "vmap of grad, (0, None, None)",
    "scan",
    "while_loop",
    "cond True",
    "checkpoint, dots",
    "disable_jit",
}


@pytest.mark.parametrize("transform", sorted(EAGER))
def test_eagerly(transform):
    apply = (DERIVATIVES | BATCHED | CONTROL)[transform]
    agree(lambda ops: apply(net(ops), *arguments()), hand, auto)


@pytest.mark.parametrize("table", [DERIVATIVES, BATCHED, CONTROL])
def test_compiled(table):
    def answer(ops):
        def all_of_them(*args):
            return {k: apply(net(ops), *args) for k, apply in table.items() if k not in EAGER}

        return jax.jit(all_of_them)(*arguments())

    agree(answer, hand, auto)


def test_offloaded_residuals_compile():
    policy = _policies()["offload"]
    f = jax.checkpoint(_named(net(hand)), policy=policy)
    want = jax.grad(jax.checkpoint(_named(net(auto)), policy=policy), ALL)(*arguments())
    same(jax.grad(f, ALL)(*arguments()), want)


def test_leading_axes_of_zero_and_one():
    for samples in (0, 1):
        args = arguments(samples)
        got, want = (
            jax.grad(lambda *a, f=ops.lin: f(*a).sum(), ALL)(*args) for ops in (hand, auto)
        )
        same(got, want)


def test_rule_with_a_collective_under_vmap():
    def centred(x):
        return x - lax.pmean(x, "i")

    rule = register(centred, lambda x: (centred(x), None), lambda _, g: (g - lax.pmean(g, "i"),))
    x = arguments()[0]
    weights = jnp.arange(12.0).reshape(4, 3)

    # the derivative is taken inside: outside, no custom_vjp knows the axis in its backward pass
    got, want = (
        jax.vmap(jax.grad(lambda x, f=f: (jnp.sin(f(x)) * weights[0]).sum()), axis_name="i")(x)
        for f in (rule, centred)
    )
    same(got, want)
    same(jax.vmap(rule, axis_name="i")(x), jax.vmap(centred, axis_name="i")(x))


def test_registered_in_registered():
    """A rule may be made of registered functions, in its forward and in its backward."""

    def forward(x, w, b):
        return hand.tanh(hand.lin(x, w, b))

    def fwd(x, w, b):
        return jax.vjp(forward, x, w, b)

    layer = register(forward, fwd, lambda pull, g: pull(g), name="layer")

    def loss(f):
        return lambda *a: (f(*a) ** 2).sum()

    want = loss(lambda *a: auto.tanh(auto.lin(*a)))
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        got = wrap(loss(layer))
        same(jax.grad(got, ALL)(*arguments()), jax.grad(want, ALL)(*arguments()))
        same(jax.grad(got, 1)(*arguments()), jax.grad(want, 1)(*arguments()))


def test_custom_rules_in_a_rule():
    """`jax.nn.silu` is a custom_jvp, and a custom_vjp may call a registered function."""

    def forward(z):
        return jax.nn.silu(hand.tanh(z))

    def fwd(z):
        y = jnp.tanh(z)
        return jax.nn.silu(y), y

    def bwd(y, g):
        s = jax.nn.sigmoid(y)
        return ((s + y * s * (1 - s)) * (1 - y * y) * g,)

    inner = register(forward, fwd, bwd)
    outer = jax.custom_vjp(lambda z: inner(z) * 2)
    outer.defvjp(lambda z: jax.vjp(lambda z: inner(z) * 2, z), lambda pull, g: pull(g))
    z = arguments()[0]
    want = jax.grad(lambda z: (jax.nn.silu(jnp.tanh(z)) * 2).sum())(z)
    same(jax.grad(lambda z: outer(z).sum())(z), want)
    same(jax.grad(lambda z: 2 * inner(z).sum())(z), want)
    same(jax.jit(jax.grad(lambda z: outer(z).sum()))(z), want)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_export(platform):
    x, w, b = arguments()
    loss = net(hand)
    exported = jax.export.export(jax.jit(loss), platforms=[platform])(x, w, b)
    assert exported.platforms == (platform,)
    pulled = exported.vjp()
    assert [a.shape for a in pulled.out_avals] == [(4, 3), (3, 2), (2,)]
    if platform == "cpu":
        same(jax.grad(exported.call, ALL)(x, w, b), jax.grad(net(auto), ALL)(x, w, b))
        same(
            jax.grad(lambda w: jax.grad(exported.call, 1)(x, w, b).sum())(w),
            jax.grad(lambda w: jax.grad(net(auto), 1)(x, w, b).sum())(w),
        )


def test_number_of_elements_may_be_symbolic_in_an_export():
    x, w, b = arguments()
    (n,) = jax.export.symbolic_shape("n")
    spec = jax.ShapeDtypeStruct((n, 3), x.dtype)
    f = jax.grad(lambda w, x: hand.mean_square(hand.lin(x, w, b)))
    exported = jax.export.export(jax.jit(f))(w, spec)
    for samples in (2, 5):
        x = arguments(samples)[0]
        want = jax.grad(lambda w, x: auto.mean_square(auto.lin(x, w, b)))(w, x)
        same(exported.call(w, x), want)


def test_numpy_arguments():
    args = tuple(np.asarray(a) for a in arguments())
    same(jax.grad(net(hand), ALL)(*args), jax.grad(net(auto), ALL)(*args))
