"""What gradients need on chips that are not there: never more than autodiff, but what is told here.

For a TPU v5e and an H100, by their own compilers, which `.ci/run` installs; without them these are
skipped. Memory is that of one chip, exchanges are those of four. The figures are exact.
"""

import jax
import pytest

from fnnet import targets
from tests.cases import Call, each_op_with
from tests.compare import loss_of
from tests.ops.test_memory import at_size, value_and_cotangents

MODULES = {"v5e": "libtpu", "h100": "jax_plugins.xla_cuda13"}

# Where scratch memory is more than autodiff's, as a fraction of the arguments' bytes.
MORE_SCRATCH = {
    # some bytes that XLA keeps beside a kernel
    ("relu", "float32", "h100"): 2e-6,
    ("relu", "bfloat16", "h100"): 4e-6,
    ("norm", "bfloat16", "h100"): 8e-6,
    # a number or two a row, in float32
    ("cross_entropy", "bfloat16", "h100"): 2e-4,
    ("rms_norm", "float32", "h100"): 0.002,
    # logits in float32, where autodiff rounds them; of few classes, so that one chunk has them all
    ("linear_cross_entropy", "bfloat16", "v5e"): 0.05,
    ("linear_cross_entropy", "bfloat16", "h100"): 6.4,
    # XLA writes the normalised rows down, in float32; of 4096 features it does not
    ("layer_norm", "float32", "h100"): 0.51,
    ("layer_norm", "bfloat16", "h100"): 1.01,
    ("rms_norm", "bfloat16", "h100"): 1.01,
    # states in float32; and of a loop autodiff unrolls what we do not
    ("rnn", "float32", "h100"): 0.87,
    ("rnn", "bfloat16", "h100"): 2.7,
    ("gru", "bfloat16", "h100"): 0.45,
    # sums over features and the samples in float32; of few features autodiff's kernel is one
    ("batch_norm", "float32", "h100"): 6e-4,
    ("batch_norm", "bfloat16", "h100"): 2.01,
    ("group_norm", "float32", "h100"): 0.002,
    ("group_norm", "bfloat16", "h100"): 0.52,
    ("pairwise_distance", "float32", "v5e"): 0.95,
    ("pairwise_distance", "bfloat16", "v5e"): 1.9,
    # patches summed in float32
    ("conv2d", "bfloat16", "h100"): 2.0,
}
# Where more is exchanged: how many exchanges and bytes more, at most. Where the axis that is summed
# over is cut: the sums that keep the digits of the tail (softmax), of a large mean and of squares
# (norms), and a first number to count from (batch_norm). And what is summed over the samples in
# float32, which autodiff rounds first: gradients of biases, scales and a loss. Where features are
# cut, a loop over features exchanges in parts.
MORE_EXCHANGED = {
    "lin": (1, 256),
    "softmax": (2, 3072),
    "log_softmax": (1, 3072),
    "cross_entropy": (0, 2),
    "linear_cross_entropy": (1, 266_300),
    "layer_norm": (3, 3584),
    "rms_norm": (1, 1792),
    "norm": (1, 1536),
    "batch_norm": (1, 5120),
    "group_norm": (1, 96),
    "pairwise_distance": (5, 8192),
    "kernel_sum": (6, 65_536),
    "rnn": (1, 128),
    "gru": (1, 384),
}


@pytest.fixture(autouse=True)
def _32_bits():
    with jax.enable_x64(False):
        yield


def compiled(f, args, target, **cut):
    pytest.importorskip(MODULES[target], reason=f"needs the compiler for {target}")
    return targets.compile_for(f, *args, target=f"{target}:{cut.pop('chips', '1')}", **cut)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_op_with("target", list(MODULES), long=list(MODULES))
def test_scratch(case: Call, target, dtype):
    args = [jax.ShapeDtypeStruct(s, dtype) for s in at_size(case, 2048, 512)]
    n = tuple(range(len(args)))
    args.append(jax.eval_shape(case.op, *args))
    hand, auto = (
        compiled(value_and_cotangents(f, n), args, target).memory.scratch
        for f in (case.op, case.plain)
    )
    given = sum(a.size * a.dtype.itemsize for a in args)
    assert (hand - auto) / given <= MORE_SCRATCH.get((case.op_name, dtype, target), 0)


@each_op_with("target", list(MODULES), long=list(MODULES), where=lambda case: bool(case.layouts))
def test_exchanges(case: Call, target):
    """Their number and their bytes, of the gradients by bfloat16 arguments."""
    args = [jax.ShapeDtypeStruct(s, "bfloat16") for s in case.big]
    n = tuple(range(len(args)))
    chips = {"v5e": "2x2", "h100": "4"}[target]
    most, most_bytes = MORE_EXCHANGED.get(case.op_name, (0, 0))
    for layout in case.layouts:
        (count, size), (theirs, their_size) = (
            (sum(c.count for c in made.collectives), sum(c.bytes for c in made.collectives))
            for made in (
                compiled(
                    jax.grad(loss_of(f), n),
                    args,
                    target,
                    chips=chips,
                    mesh={"d": 2, "m": 2},
                    in_shardings=tuple(layout),
                )
                for f in (case.op, case.plain)
            )
        )
        assert count - theirs <= most, layout
        assert size - their_size <= most_bytes, layout
