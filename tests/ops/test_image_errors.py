"""Errors about images and windows, and what is taken for them."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import avg_pool, conv2d, fold, max_pool, unfold
from tests.compare import assert_close

F = jnp.ones
X, W = F((2, 5, 5, 4)), F((3, 3, 4, 6))
WRONG = {
    "one image": (
        lambda: max_pool(F((5, 5, 3)), 2),
        ValueError,
        r"max_pool: x must have four axes \(n, h, w, c\); got shape \(5, 5, 3\).*x\[None\]",
    ),
    "integers": (lambda: avg_pool(np.ones((2, 4, 4, 1), int), 2), TypeError, r"avg_pool: x must"),
    "a float size": (
        lambda: unfold(X, 2.0),
        TypeError,
        r"unfold: size must be a whole number; got 2.0, a float",
    ),
    "a boolean stride": (
        lambda: max_pool(X, 2, stride=True),
        TypeError,
        r"max_pool: stride must be a whole number; got True",
    ),
    "three sizes": (lambda: max_pool(X, (2, 2, 2)), ValueError, r"max_pool: size .* got 3 numbers"),
    "size of none": (lambda: max_pool(X, 0), ValueError, r"size must be at least 1; got 0"),
    "no size": (lambda: max_pool(X, None), TypeError, r"max_pool: size must be a whole number"),
    "window too large": (
        lambda: max_pool(X, 6),
        ValueError,
        r"max_pool: a window of 6×6 pixels is larger than the image, 5×5.*SAME",
    ),
    "dilated window too large": (
        lambda: unfold(X, 3, dilation=3),
        ValueError,
        r"3×3 pixels, 7×7 with its dilation, is larger",
    ),
    "negative padding": (
        lambda: avg_pool(X, 2, padding=-1),
        ValueError,
        r"avg_pool: padding must be at least 0; got -1. To crop, slice x",
    ),
    "padding of two numbers": (
        lambda: avg_pool(X, 2, padding=(1, 2)),
        ValueError,
        r"padding must be .* got \(1, 2\). For 1 pixels .*\(\(1, 1\), \(2, 2\)\)",
    ),
    "padding in small letters": (
        lambda: conv2d(X, W, padding="same"),
        ValueError,
        r'conv2d: padding must be "SAME", "VALID", .* got \'same\'',
    ),
    "no padding": (lambda: conv2d(X, W, padding=None), TypeError, r"padding .* got None"),
    "channels": (
        lambda: conv2d(X, F((3, 3, 2, 6))),
        ValueError,
        r"conv2d: w of shape \(3, 3, 2, 6\) takes 2 input channels, but x .* has 4.*groups=2",
    ),
    "channels first": (
        lambda: conv2d(F((2, 4, 5, 5)), W),
        ValueError,
        r"x seems to be \(n, c, h, w\): pass x.transpose\(0, 2, 3, 1\)",
    ),
    "kernel of another order": (
        lambda: conv2d(X, F((6, 4, 3, 3))),
        ValueError,
        r"w seems to be \(c_out, c_in, kh, kw\): pass w.transpose\(2, 3, 1, 0\)",
    ),
    "kernel a matrix": (lambda: conv2d(X, F((4, 6))), ValueError, r"conv2d: w must have four axes"),
    "groups": (
        lambda: conv2d(X, F((3, 3, 1, 6)), groups=4),
        ValueError,
        r"conv2d: groups must divide the c_out = 6 output channels of w; got 4",
    ),
    "no groups": (lambda: conv2d(X, W, groups=0), ValueError, r"groups must be at least 1"),
    "bias": (
        lambda: conv2d(X, W, F(1)),
        ValueError,
        r"conv2d: b must have shape \(c_out,\) = \(6,\); got shape \(1,\)",
    ),
    "form": (lambda: conv2d(X, W, form="fft"), ValueError, r'form must be "direct" or "unfold"'),
    "fold: patches of another shape": (
        lambda: fold(F((2, 4, 4, 9)), X.shape, 2),
        ValueError,
        r"fold: p must have shape \(n, ho, wo, kh\*kw\*c\) = \(2, 4, 4, 16\).*got shape",
    ),
    **{
        f"{op.__name__}: {option} without bound": (
            lambda op=op, option=option, value=value, more=more: op(
                X, W if op is conv2d else 2, **{option: value, **more}
            ),
            ValueError,
            rf"{op.__name__}: {option}.* (at most|no memory holds. Take a smaller {option})",
        )
        for op in (max_pool, unfold, conv2d)
        for option, value, more in (
            ("padding", 2**40, {}),
            ("padding", 2**30, {}),
            ("padding", ((0, 2**31 - 1), (0, 0)), {}),
            ("stride", 2**40, {}),
            *([("dilation", 2**30, {"padding": "SAME"})] if op is not max_pool else []),
        )
    },
    "size without bound": (
        lambda: avg_pool(X, 2**30, padding="SAME"),
        ValueError,
        r"avg_pool: size=.* no memory holds. Take a smaller size",
    ),
    "groups without bound": (
        lambda: conv2d(X, W, groups=2**40),
        ValueError,
        r"conv2d: groups must be at most",
    ),
    "fold: shape without bound": (
        lambda: fold(F((2, 4, 4, 16)), (2, 2**30, 2**30, 4), 2),
        ValueError,
        r"fold: shape=.* no memory holds. Take a smaller shape",
    ),
    "fold: shape": (
        lambda: fold(F((2, 4, 4, 16)), (5, 5, 4), 2),
        ValueError,
        r"fold: shape must be the images' \(n, h, w, c\); got 3 numbers",
    ),
    "fold: an array for shape": (
        lambda: fold(F((2, 4, 4, 16)), jnp.ones(4), 2),
        TypeError,
        r"fold: shape must be a Python number, string or tuple",
    ),
    "count_include_pad": (
        lambda: avg_pool(X, 2, count_include_pad=None),
        TypeError,
        r"avg_pool: count_include_pad must be True or False; got None",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    call, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        call()


def test_lists_and_numpy_integers_will_do():
    x = F((1, 5, 5, 2))
    want = max_pool(x, (2, 3), stride=2, padding=((0, 1), (1, 0)))
    got = max_pool(x, [2, 3], stride=np.int64(2), padding=[[0, 1], [1, 0]])
    assert_close(got, want)
