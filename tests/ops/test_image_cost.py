"""What images cost: the size of programs, scratch memory and stored bytes."""

import functools

import jax
import jax.numpy as jnp
import pytest

import fnnet
from fnnet import avg_pool, conv2d, fold, max_pool, unfold
from tests.ops.test_images import reduce_window
from tests.ops.test_memory import stored, temp

F = jnp.ones
LARGE = {
    "max_pool": lambda k: lambda x: max_pool(x, k, stride=1),
    "max_pool, side by side": lambda k: lambda x: max_pool(x, k),
    "avg_pool": lambda k: lambda x: avg_pool(x, k, stride=1),
    "unfold": lambda k: lambda x: unfold(x, k),
    "fold": lambda k: lambda x: fold(unfold(x, k), x.shape, k),
    "conv2d": lambda k: lambda x: conv2d(x, F((k, k, 2, 1), x.dtype), form="unfold"),
}


@pytest.mark.parametrize("name", LARGE)
def test_the_program_does_not_grow_with_the_window(name):
    """Lowered, forward and gradient: 40×40 pixels take no more than 5×5, but for longer numbers."""
    x = F((1, 42, 42, 2), "float32")
    for make in (lambda f: f, lambda f: jax.value_and_grad(lambda x: jnp.sin(f(x)).sum())):
        small, large = (len(jax.jit(make(LARGE[name](k))).lower(x).as_text()) for k in (5, 40))
        assert large < 1.1 * small


ENDS = {"sin": lambda y, g: jnp.sin(y).sum(), "product": lambda y, g: (y * g).sum()}


@pytest.mark.parametrize("end", ["product", pytest.param("sin", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("at", [(2, 2, "VALID"), (3, 2, "SAME"), (3, 1, "SAME")], ids=str)
def test_scratch_memory_of_one_call(at, channels, end):
    """Of value and gradient, in one program: never above autodiff's of the same forward."""
    size, stride, padding = at
    x, w = F((4, 28, 28, channels), "float32"), F((size, size, channels, 8), "float32")
    options = {"stride": stride, "padding": padding}
    pools = [functools.partial(f, size=size, **options) for f in (max_pool, avg_pool, unfold)]
    folds = functools.partial(fold, shape=x.shape, size=size, **options)
    convs = [functools.partial(conv2d, w=w, form=f, **options) for f in ("direct", "unfold")]

    def scratch(f, a, g):
        return temp(jax.value_and_grad(lambda a, g: ENDS[end](f(a), g)), a, g)

    for f, a in [*((f, x) for f in (*pools, *convs)), (folds, pools[2](x))]:
        y = jax.eval_shape(f, a)
        g = F(y.shape, y.dtype)
        assert scratch(f, a, g) <= scratch(fnnet.plain(f), a, g), f


@pytest.mark.parametrize(("size", "width"), [(2, 1), (16, 1), (17, 2)])
def test_max_pool_stores_one_byte_an_output(size, width):
    """Two beyond 256 pixels a window; and not x, which autodiff of reduce_window keeps."""
    x = F((2, 34, 34, 3), "float32")
    outputs = max_pool(x, size).size
    assert stored(lambda x: max_pool(jnp.sin(x), size), x) == x.nbytes + width * outputs
    auto = stored(lambda x: reduce_window(jnp.sin(x), size, size, [(0, 0)] * 2), x)
    assert auto == x.nbytes + x.nbytes


def test_linear_ops_store_nothing():
    x, w = F((2, 6, 6, 3)), F((3, 3, 3, 2))
    for f in (lambda x: unfold(x, 3), lambda x: avg_pool(x, 2), lambda x: conv2d(x, w)):
        assert stored(f, x) in (0, w.nbytes)
        assert stored(lambda x, f=f: f(2 * x), x) in (0, w.nbytes)
    p = unfold(x, 3)
    assert stored(lambda p: fold(2 * p, x.shape, 3), p) == 0
