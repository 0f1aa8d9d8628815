"""What is special about images: windows, adjoints, ties, groups."""

import functools
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet import avg_pool, conv2d, fold, max_pool, unfold
from fnnet.proof import reference as twin
from tests.compare import assert_close, cotangent_like, equations, loss_of, passes

F = jnp.ones
IMAGE = ("NHWC", "HWIO", "NHWC")
WINDOWS = [
    {"size": 2},
    {"size": (3, 2), "padding": "SAME"},
    {"size": 3, "stride": 2, "padding": 1},
    {"size": 2, "stride": 2, "padding": "SAME"},
    {"size": (1, 3), "stride": (3, 1), "padding": ((2, 0), (1, 4)), "dilation": (1, 2)},
    {"size": 4, "padding": 2},
]


def small_integers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).integers(-5, 6, shape), "float64")


def primitives(f, *args):
    return {e.primitive.name for e in equations(jax.make_jaxpr(f)(*args))}


@pytest.mark.parametrize("options", WINDOWS, ids=str)
def test_fold_is_the_adjoint_of_unfold(options):
    """<unfold(x), p> = <x, fold(p)>, exactly: whole numbers are not rounded."""
    x = small_integers(0, 2, 7, 5, 3)
    u = unfold(x, **options)
    p = small_integers(1, *u.shape)
    image = fold(p, x.shape, **options)
    assert float(jnp.vdot(u, p)) == float(jnp.vdot(x, image))
    # each is the other's backward, to the last bit
    np.testing.assert_array_equal(jax.vjp(functools.partial(unfold, **options), x)[1](p)[0], image)
    back = jax.vjp(lambda p: fold(p, x.shape, **options), p)[1](x)[0]
    np.testing.assert_array_equal(back, u)


@pytest.mark.parametrize("options", WINDOWS[:3], ids=str)
def test_unfold_is_conv_general_dilated_patches_with_channels_last(options):
    x = small_integers(0, 2, 7, 5, 3)
    size = np.broadcast_to(options["size"], 2)
    pads = options.get("padding", "VALID")
    pads = [(pads, pads)] * 2 if isinstance(pads, int) else pads
    step = (options.get("stride", 1),) * 2
    want = lax.conv_general_dilated_patches(x, size, step, pads, dimension_numbers=IMAGE)
    want = want.reshape(*want.shape[:3], 3, -1).swapaxes(3, 4).reshape(want.shape)
    np.testing.assert_array_equal(unfold(x, **options), want)


def test_no_convolution_in_unfold_and_fold():
    """Nor a gather or scatter: slices and pads."""
    x, size = F((2, 6, 6, 3)), 3
    p = unfold(x, size)
    for f, at in (
        (lambda x: unfold(x, size), x),
        (lambda p: fold(p, x.shape, size), p),
        (lambda x: conv2d(x, F((3, 3, 3, 2)), form="unfold"), x),
    ):
        used = primitives(jax.value_and_grad(loss_of(f)), at)
        assert not used & {"conv_general_dilated", "gather", "scatter", "scatter-add"}
    direct = jax.grad(loss_of(lambda x: conv2d(x, F((3, 3, 3, 2)))))
    assert "conv_general_dilated" in primitives(direct, x)


def test_conv2d_of_the_book():
    x, w = jnp.arange(9.0).reshape(1, 3, 3, 1), jnp.arange(4.0).reshape(2, 2, 1, 1)
    for form in ("direct", "unfold"):
        y = conv2d(x, w, padding="VALID", form=form)
        assert y[0, :, :, 0].tolist() == [[19, 25], [37, 43]]


OPTIONS = [  # stride, padding, dilation
    (1, "SAME", (2, 1)),
    (1, "VALID", (1, 1)),
    (2, 1, (1, 2)),
    ((3, 2), ((0, 2), (3, 1)), (2, 1)),
    ((3, 2), "SAME", (1, 1)),
]


@pytest.mark.parametrize("form", ["direct", "unfold"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv2d_is_lax_conv(form, groups, key):
    keys = jax.random.split(key, 3)
    x, w, b = (
        jax.random.normal(k, s)
        for k, s in zip(keys, [(2, 7, 6, 4), (2, 3, 4 // groups, 8), (8,)], strict=True)
    )

    for stride, padding, dilation in OPTIONS:

        def want(x, w, b, stride=stride, padding=padding, dilation=dilation):
            y = lax.conv_general_dilated(
                x,
                w,
                np.broadcast_to(stride, 2),
                [(padding, padding)] * 2 if isinstance(padding, int) else padding,
                rhs_dilation=dilation,
                dimension_numbers=IMAGE,
                feature_group_count=groups,
            )
            return y + jnp.broadcast_to(b, y.shape)

        got = functools.partial(
            conv2d, stride=stride, padding=padding, dilation=dilation, groups=groups, form=form
        )
        g = cotangent_like(jax.random.key(1), jax.eval_shape(want, x, w, b))
        assert_close(*(passes(f, (x, w, b), g) for f in (got, want)))


def test_conv2d_where_autodiff_of_lax_conv_aborts_the_process(key):
    """XLA's conv-operand-swapper, in JAX 0.10.2 and 0.12.0.1; the twin is the judge."""
    options = {"stride": 2, "padding": 1, "dilation": (1, 3)}
    x, w = jax.random.normal(key, (2, 8, 7, 4)), jax.random.normal(key, (2, 3, 4, 6))
    y, vjp = jax.vjp(functools.partial(conv2d, **options), x, w)
    g = cotangent_like(key, y)
    want = twin.conv2d_vjp(*map(np.asarray, (x, w)), None, np.asarray(g), **options)
    assert_close(tuple(map(np.asarray, vjp(g))), want[:2])


def test_low_precision_sums_are_held_in_float32():
    """4096 ones: bfloat16 stops counting at 256, float16 at 2048."""
    for dtype, form in itertools.product(("bfloat16", "float16"), ("direct", "unfold")):
        f = functools.partial(conv2d, padding="VALID", form=form)
        assert float(f(F((1, 1, 1, 4096), dtype), F((1, 1, 4096, 1), dtype)).sum()) == 4096
        x = F((1, 64, 64, 1), dtype)
        total = lambda w, f=f, x=x: f(x, w).astype("float32").sum()  # noqa: E731
        assert float(jax.grad(total)(F((1, 1, 1, 1), dtype))[0, 0, 0, 0]) == 4096
        assert float(avg_pool(x, 64)[0, 0, 0, 0]) == 1


def reduce_window(x, size, stride, pads):
    window, step = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -np.inf, lax.max, window, step, [(0, 0), *pads, (0, 0)])


@pytest.mark.parametrize("values", [(0.0, 1.0), (-np.inf,), (np.nan, 0.0, 1.0, -np.inf, np.inf)])
@pytest.mark.parametrize(
    "size_stride_pads", [(2, 2, 0), (3, 1, 1), (3, 2, 0), (5, 5, 2), (5, 1, 2), (4, 3, 0)]
)
def test_max_pool_ties_nan_and_inf_as_reduce_window(values, size_stride_pads):
    size, stride, pad = size_stride_pads
    x = jnp.asarray(np.random.default_rng(0).choice(values, (2, 10, 10, 3)))
    y, vjp = jax.vjp(lambda x: max_pool(x, size, stride=stride, padding=pad), x)
    want, auto = jax.vjp(lambda x: reduce_window(x, size, stride, [(pad, pad)] * 2), x)
    np.testing.assert_array_equal(y, want)
    g = cotangent_like(jax.random.key(0), y)
    assert_close(vjp(g), auto(g))


def test_of_equal_pixels_the_first_counts():
    x = F((1, 4, 4, 1))
    dx = jax.grad(lambda x: max_pool(x, 2).sum())(x)[0, :, :, 0]
    assert dx.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]] * 2


@pytest.mark.parametrize("size_stride", [(2, 2), (3, 2), (5, 5), (5, 2)])
def test_the_plain_form_has_the_twins_gradient_at_ties(size_stride):
    """`plain` is an oracle: where pixels are equal JAX's derivative of it is the first's too."""
    size, stride = size_stride
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 10, 10, 3)), "float64")
    y, vjp = jax.vjp(fnnet.plain(lambda x: max_pool(x, size, stride=stride, padding=1)), x)
    g = small_integers(1, *y.shape)
    want = twin.max_pool_vjp(np.asarray(x), size, np.asarray(g), stride=stride, padding=1)
    np.testing.assert_array_equal(vjp(g)[0], want[0])


def test_windows_of_more_than_256_pixels(key):
    x = jax.random.normal(key, (1, 20, 20, 2))
    for stride in (1, 17):
        y, vjp = jax.vjp(lambda x, s=stride: max_pool(x, 17, stride=s), x)
        g = cotangent_like(key, y)
        auto = jax.vjp(lambda x, s=stride: reduce_window(x, 17, s, [(0, 0)] * 2), x)[1]
        assert_close(vjp(g), auto(g))


def test_gradient_of_conv2d_on_an_explicit_mesh(key):
    """Sharded by batch. (Second derivatives there need a batched convolution, which JAX lacks.)"""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
    x, w = jax.random.normal(key, (4, 5, 4, 2)), jax.random.normal(key, (3, 2, 2, 3))
    placed = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in ((x, P("d")), (w, P()))]
    gradient = jax.grad(loss_of(conv2d), (0, 1))
    want = gradient(x, w)
    for run in (jax.jit(gradient), jax.jit(jax.grad(jax.checkpoint(loss_of(conv2d)), (0, 1)))):
        got = run(*placed)
        assert got[0].sharding.spec == P("d", None, None, None)
        assert_close(jax.device_get(got), jax.device_get(want))


@pytest.mark.parametrize("shape", [(2, 0, 4, 3), (2, 4, 0, 3), (0, 4, 4, 3), (2, 4, 4, 0)])
def test_empty_axes(shape):
    """As `jax.lax` has them: no windows on an image without pixels, and gradients of zeros."""
    x, w = F(shape), F((3, 3, shape[3], 2))

    def lax_conv(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=IMAGE)

    want = jax.eval_shape(lax_conv, x, w).shape
    for form in ("direct", "unfold"):
        y, vjp = jax.vjp(functools.partial(conv2d, form=form), x, w)
        assert y.shape == want
        assert_close(vjp(y), (jnp.zeros_like(x), jnp.zeros_like(w)))
    for op, size in itertools.product((max_pool, avg_pool, unfold), (3, 6)):
        y, vjp = jax.vjp(functools.partial(op, size=size, stride=1, padding="SAME"), x)
        assert y.shape[:3] == want[:3]
        assert_close(vjp(y), (jnp.zeros_like(x),))


SIDES = st.integers(1, 6)


@given(st.data())
def test_drawn_windows(data):
    """Any window on any image: the twin's numbers, or a ValueError where nothing fits."""
    h, w, kh, kw = (data.draw(SIDES) for _ in range(4))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = st.tuples(st.integers(0, 2), st.integers(0, 2))
    padding = data.draw(st.sampled_from(["SAME", "VALID"]) | st.tuples(pads, pads))
    x = small_integers(0, 2, h, w, 2)
    options = {"stride": stride, "padding": padding}
    empty = not isinstance(padding, str) or padding == "VALID"
    (t, b), (l, r) = padding if not isinstance(padding, str) else ((0, 0), (0, 0))
    fits = not empty or (kh <= h + t + b and kw <= w + l + r)
    for name in ("unfold", "max_pool", "avg_pool"):
        op = functools.partial(getattr(fnnet, name), size=(kh, kw), **options)
        if not fits:
            with pytest.raises(ValueError, match=f"{name}: a window of {kh}×{kw} pixels is larger"):
                op(x)
            continue
        y, vjp = jax.vjp(op, x)
        g = small_integers(1, *y.shape)
        assert_close(np.asarray(y), getattr(twin, name)(np.asarray(x), (kh, kw), **options))
        want = getattr(twin, f"{name}_vjp")(np.asarray(x), (kh, kw), np.asarray(g), **options)
        assert_close(tuple(map(np.asarray, vjp(g))), want)
