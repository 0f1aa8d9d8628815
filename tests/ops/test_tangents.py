"""Tangents derived by hand hold no more than the forward pass, and less than autodiff's."""

import jax
import jax.numpy as jnp
import pytest

import fnnet
from fnnet import curvature
from tests.compare import assert_close
from tests.ops.test_memory import temp

T, N, I, H = 128, 32, 64, 64
ROWS, D, CLASSES = 512, 32, 8192
LABELS = jnp.arange(ROWS) % CLASSES


def _loss(mode):
    chunk = {"recompute": 512, "forward": 32}[mode]
    return lambda f: lambda x, w, b: f(x, w, LABELS, b, mode=mode, chunk=chunk)


WITH = {
    "rnn": (fnnet.rnn, lambda f: f, [(T, N, I), (N, H), (I, H), (H, H), (H,)]),
    "gru": (fnnet.gru, lambda f: f, [(T, N, I), (N, H), (I, 3 * H), (H, 3 * H), (3 * H,)]),
    **{
        mode: (fnnet.linear_cross_entropy, _loss(mode), [(ROWS, D), (D, CLASSES), (CLASSES,)])
        for mode in ("recompute", "forward")
    },
}
# what a pass keeps is its result, and scratch here: h; the gates; dw, and w's tangent beside it
KEPT = {
    "rnn": 4 * (T + 4) * N * H,  # and the states of a step
    "gru": 4 * (4 * T + 4) * N * H,
    "recompute": 2 * 4 * D * CLASSES,
    "forward": 2 * 4 * D * CLASSES,
}


def _needs(f, shapes):
    """The scratch memory of what is made of f."""
    n = len(shapes)
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes] * 2
    push = lambda *a: jax.jvp(f, a[:n], a[n:])  # noqa: E731
    made = {
        "pass": lambda *a: jax.vjp(f, *a[:n]),
        "jvp": push,
        "linearize": lambda *a: jax.linearize(f, *a[:n])[1](*a[n:]),
        "grad of jvp": jax.grad(lambda *a: jnp.sum(push(*a)[1] ** 2), range(2 * n)),
    }
    return {name: temp(g, *args) for name, g in made.items()}


@pytest.mark.parametrize("of", WITH)
def test_scratch_memory(of):
    op, make, shapes = WITH[of]
    hand, auto = (_needs(make(f), shapes) for f in (op, fnnet.plain(op)))
    assert hand["jvp"] <= hand["pass"] + KEPT[of]
    assert hand["jvp"] < auto["jvp"]
    assert hand["linearize"] < auto["linearize"]
    if of in ("recompute", "forward"):
        logits = 4 * ROWS * CLASSES
        assert hand["grad of jvp"] < logits < auto["grad of jvp"]


OPTIONS = {
    "weights": {"weights": jnp.linspace(0.5, 2, 6)},
    "both weights, none": {
        "weights": jnp.linspace(0.5, 2, 6),
        "class_weights": jnp.linspace(1, 3, 9),
        "reduction": "none",
    },
    "class weights, sum": {"class_weights": jnp.linspace(1, 3, 9), "reduction": "sum"},
    "all": {
        "weights": jnp.linspace(0.5, 2, 6),
        "class_weights": jnp.linspace(1, 3, 9),
        "ignore_index": 2,
        "smoothing": 0.1,
        "z_loss": 0.01,
        "softcap": 3.0,
    },
}


@pytest.mark.parametrize("mode", ["auto", "recompute"])
@pytest.mark.parametrize("options", OPTIONS)
def test_linear_cross_entropy_with_weights(options, mode):
    """Whatever has a tangent alone, in chunks that do not divide the classes."""
    key = jax.random.key(0)
    x, w, b = (jax.random.normal(key, s) for s in ((6, 4), (4, 9), (9,)))
    x = (
        x.at[2].set(jnp.nan) if "ignore_index" in OPTIONS[options] else x
    )  # a sample that is ignored
    rest = {n: v for n, v in OPTIONS[options].items() if "weights" not in n}
    given = {n: v for n, v in OPTIONS[options].items() if "weights" in n}
    labels = jnp.array([0, 8, 2, 5, 5, 1])
    b = b if "smoothing" in rest else b.at[7].set(-jnp.inf)  # of a smoothed label it has a part
    args = {"x": x, "w": w, "b": b, **given}
    dots = {n: jnp.cos(3 * jnp.arange(v.size)).reshape(v.shape) for n, v in args.items()}

    def pushed(f):
        def of(some):
            its = {**args, **some}
            return f(its.pop("x"), its.pop("w"), labels, its.pop("b"), chunk=4, **its, **rest)

        names = [[n] for n in args] + [list(args)]
        every = [[{n: v[n] for n in some} for v in (args, dots)] for some in names]
        return [(jax.jvp(of, (a,), (d,)), jax.linearize(of, a)[1](d)) for a, d in every]

    rest["mode"] = mode
    assert_close(
        pushed(fnnet.linear_cross_entropy), pushed(fnnet.plain(fnnet.linear_cross_entropy))
    )


def test_gauss_newton_by_large_vocabularies():
    """A product of the kind that asks for these tangents."""
    x, w = jnp.linspace(-1, 1, 12).reshape(4, 3), jnp.linspace(-1, 1, 30).reshape(3, 10)
    op = fnnet.linear_cross_entropy
    for mode in ("recompute", "forward"):
        losses = [
            lambda w, f=f, mode=mode: f(x, w, jnp.arange(4), chunk=4, mode=mode)
            for f in (op, fnnet.plain(op))
        ]
        assert_close(*(curvature.hvp(f, w, jnp.cos(w)) for f in losses))
        assert_close(
            *(jax.grad(lambda u, f=f: jax.jvp(f, (u,), (jnp.cos(w),))[1])(w) for f in losses)
        )
