"""Whatever an op is called with: an answer, or an error that names the op and the argument."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet

F = jnp.ones

# a right call of every op, by keyword; labels and masks are no floats
CALLS = {
    "matmul": {"a": F((2, 3)), "b": F((3, 4))},
    "lin": {"x": F((2, 3)), "w": F((3, 4)), "b": F(4)},
    "relu": {"x": F((2, 3))},
    "mse": {"pred": F((2, 3)), "targ": F((2, 3))},
    "softmax": {"z": F((2, 3))},
    "log_softmax": {"z": F((2, 3))},
    "cross_entropy": {
        "logits": F((2, 3)),
        "labels": jnp.array([0, 2]),
        "weights": F(2),
        "class_weights": F(3),
    },
    "linear_cross_entropy": {
        "x": F((2, 3)),
        "w": F((3, 4)),
        "labels": jnp.array([0, 3]),
        "b": F(4),
        "weights": F(2),
        "class_weights": F(4),
    },
    "layer_norm": {"x": F((2, 3)), "scale": F(3), "shift": F(3)},
    "rms_norm": {"x": F((2, 3)), "scale": F(3)},
    "batch_norm": {"x": F((2, 3)), "scale": F(3), "shift": F(3)},
    "group_norm": {"x": F((2, 3)), "groups": 3, "scale": F(3), "shift": F(3)},
    "norm": {"x": F((2, 3))},
    "pairwise_distance": {"p": F((2, 3)), "q": F((4, 3))},
    "kernel_sum": {"p": F((2, 3)), "q": F((4, 3)), "weights": F(4)},
    "gelu": {"x": F((2, 3))},
    "silu": {"x": F((2, 3))},
    "glu_mlp": {"x": F((2, 3)), "w_gate": F((3, 4)), "w_up": F((3, 4)), "w_down": F((4, 2))},
    "rnn": {"x": F((2, 1, 3)), "h0": F((1, 2)), "wx": F((3, 2)), "wh": F((2, 2)), "b": F(2)},
    "gru": {"x": F((2, 1, 3)), "h0": F((1, 2)), "wx": F((3, 6)), "wh": F((2, 6)), "b": F(6)},
    "attention": {
        "q": F((1, 2, 1, 2)),
        "k": F((1, 3, 1, 2)),
        "v": F((1, 3, 1, 2)),
        "mask": np.ones((1, 1, 2, 3), bool),
    },
    "rope": {"x": F((1, 2, 1, 4)), "positions": jnp.arange(2)},
    "conv2d": {"x": F((1, 4, 4, 2)), "w": F((2, 2, 2, 2)), "b": F(2)},
    "max_pool": {"x": F((1, 4, 4, 2)), "size": 2},
    "avg_pool": {"x": F((1, 4, 4, 2)), "size": 2},
    "unfold": {"x": F((1, 4, 4, 2)), "size": 2},
    "fold": {"p": F((1, 3, 3, 8)), "shape": (1, 4, 4, 2), "size": 2},
}

WRONG = {
    "a string": "x",
    "an empty string": "",
    "nan": float("nan"),
    "inf": float("inf"),
    "minus one": -1,
    "a half": 0.5,
    "a large number": 2**40,
    "true": True,
    "none": None,
    "complex": 1j,
    "an object": object(),
    "a function": len,
    "a list": [1, 2, 3],
    "a ragged list": [1, [2, "x"]],
    "a dict": {"a": 1},
    "strings": np.array(["a", "b"]),
    "objects": np.array([None, 1], dtype=object),
    "a vector": np.ones(3),
    "integers": np.arange(4),
    "a struct": jax.ShapeDtypeStruct((2, 3), np.float32),
    "a scalar of NumPy": np.float32(0.1),
}


PARAMETERS = [
    pytest.param(op, name, id=f"{op}-{name}")
    for op in CALLS
    for name in inspect.signature(getattr(fnnet, op)).parameters
]


def test_every_op_is_called():
    assert set(CALLS) == {n for n in dir(fnnet.ops) if callable(getattr(fnnet, n, None))}


@pytest.mark.parametrize(("op", "name"), PARAMETERS)
def test_misuse_is_explained(op, name):
    """Each wrong value in each place: no error of JAX's, no error that names nothing."""
    f = getattr(fnnet, op)
    for what, value in WRONG.items():
        try:
            f(**{**CALLS[op], name: value})
        except (TypeError, ValueError) as e:
            message = str(e)
            assert message.startswith(f"{op}: "), (what, message)
            # shapes that do not fit are told of either of the arguments
            told = [n for n in {*CALLS[op], name} if re.search(rf"\b{n}\b", message)]
            assert name in told or ("shape" in message and told), (what, message)
        # else it has a meaning: True is a flag, a vector is broadcast nowhere but fits


@pytest.mark.parametrize(
    ("op", "name"), [p for p in PARAMETERS if p.values[1] not in CALLS[p.values[0]]]
)
def test_a_traced_option_works_or_is_explained(op, name):
    """Under jit an option may come as a tracer: numbers may, what shapes the program may not."""
    f, call = getattr(fnnet, op), CALLS[op]

    def run(value):
        return f(**call, **{name: value})

    if (op, name) in TRACED:
        np.testing.assert_allclose(jax.jit(run)(0.25), run(0.25), rtol=1e-12)
    else:
        with pytest.raises(TypeError, match=f"^{op}: {name} must be known when the op is compiled"):
            jax.jit(run)(0.25)


TRACED = {
    ("cross_entropy", "smoothing"),
    ("cross_entropy", "z_loss"),
    ("linear_cross_entropy", "smoothing"),
    ("linear_cross_entropy", "z_loss"),
    ("linear_cross_entropy", "softcap"),
    ("layer_norm", "eps"),
    ("rms_norm", "eps"),
    ("batch_norm", "eps"),
    ("group_norm", "eps"),
    ("attention", "scale"),
    ("kernel_sum", "scale"),
    ("rope", "base"),
}


class Parameter:
    """An array to JAX, as flax's `nnx.Param` is one: by the protocol alone."""

    def __init__(self, value):
        self.value = value

    def __jax_array__(self):
        return self.value


@pytest.mark.parametrize("op", CALLS)
def test_what_is_an_array_to_jax_is_an_array_here(op):
    """Objects with `__jax_array__` and NumPy's arrays, by keyword, by place, and under jit."""
    f, call = getattr(fnnet, op), CALLS[op]
    want = f(**call)
    for wrap in (Parameter, np.asarray):
        wrapped = {k: wrap(v) if isinstance(v, jax.Array) else v for k, v in call.items()}
        np.testing.assert_array_equal(f(**wrapped), want)
        np.testing.assert_allclose(jax.jit(lambda w=wrapped: f(**w))(), want, rtol=1e-6)
    first, *_ = call
    np.testing.assert_array_equal(f(Parameter(jnp.asarray(call[first])), **_without(call)), want)


def _without(call):
    return dict(list(call.items())[1:])


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("layer_norm", {"eps": np.float64(1e-3)}),
        ("rms_norm", {"eps": np.array(1e-3)}),
        ("cross_entropy", {"smoothing": np.float32(0.25), "ignore_index": np.int64(2)}),
        ("attention", {"scale": np.float32(0.5), "causal": np.bool_(True), "block": np.int32(2)}),
        ("max_pool", {"size": [2, 2], "stride": np.int64(1), "padding": [[0, 1], [1, 0]]}),
        ("conv2d", {"stride": [1, 2], "groups": np.int8(1), "precision": ["high", "default"]}),
        ("norm", {"axis": [0, 1], "ord": np.float32(1), "keepdims": np.bool_(True)}),
        ("pairwise_distance", {"ord": np.int64(1)}),
        ("pairwise_distance", {"ord": np.str_("sq")}),
        ("kernel_sum", {"kernel": np.str_("rq"), "scale": np.float32(0.5), "block": np.int32(2)}),
        ("rope", {"base": np.float32(500), "interleaved": np.bool_(True)}),
        ("batch_norm", {"axis": np.int64(1), "eps": np.float32(0.5)}),
        ("group_norm", {"groups": np.int8(1), "eps": np.float32(0.5)}),
        ("fold", {"shape": list(np.array((1, 4, 4, 2))), "size": np.array(2)[()]}),
    ],
)
def test_numpy_scalars_and_lists_are_options(op, options):
    """In value and gradient as the Python numbers they stand for."""
    f, call = getattr(fnnet, op), {**CALLS[op], **options}
    plain = {k: _python(v) if k in options else v for k, v in call.items()}
    first, *_ = call

    def run(given):
        rest = dict(list(given.items())[1:])
        return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(f(x, **rest))))(given[first])

    for got, want in zip(run(call), run(plain), strict=True):
        np.testing.assert_array_equal(got, want)


def _python(value):
    if isinstance(value, list):
        return tuple(_python(v) for v in value)
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def test_an_option_is_no_reason_to_compile_again():
    """One program for a number, however it is given: NumPy's, Python's, twice."""
    x = F((2, 5))
    fnnet.layer_norm(x, eps=0.125)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr("logging.Logger.warning", lambda self, *args: seen.append(args))
        for eps in (0.125, np.float32(0.125), np.float64(0.125), np.array(0.125)):
            fnnet.layer_norm(x, eps=eps)
    assert not seen


def test_jit_of_an_op_lowers_the_gradient():
    """An attribute of the op would be copied by functools.wraps, and hide jax.jit's own."""
    gradient = jax.jit(jax.grad(fnnet.mse))
    assert gradient.lower(F((2, 3)), F((2, 3))).out_info.shape == (2, 3)
