"""What a gradient stores and needs: never more than autodiff. These figures are exact."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_policies

import fnnet
from tests.cases import CASES, Call, each_case, each_case_with
from tests.compare import loss_of

POLICIES = [
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
]


def stored(f, *args) -> int:
    """The bytes a forward pass keeps for its backward pass, beside what it was given."""
    jaxpr = jax.make_jaxpr(lambda *a: jax.tree.leaves(jax.vjp(f, *a)[1]))(*args)
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    kept = {v for v in inner.outvars if not isinstance(v, jax.extend.core.Literal)}
    given = {*inner.invars, *inner.constvars}
    return sum(v.aval.size * v.aval.dtype.itemsize for v in kept - given)


def temp(f, *args) -> int:
    """The bytes of scratch memory the compiled function allocates."""
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes


SIZES = [(256, 256), (2048, 512)]


def at_size(case: Call, n: int, d: int) -> list[tuple[int, ...]]:
    """The row's shapes with n samples of d features, if it has no others; else its big ones."""
    first = case.shapes[0]
    size = dict(zip(first, (n, d), strict=False))
    if (
        len(first) == len(size) == 2
        and 1 not in size
        and all(i in size for s in case.shapes for i in s)
    ):
        return [tuple(size[i] for i in s) for s in case.shapes]
    return list(case.big)


def value_and_gradient(f, n):
    return jax.value_and_grad(loss_of(f), n)


def value_and_cotangents(f, n):
    def run(*args):
        *args, g = args
        out, vjp = jax.vjp(f, *args)
        return out, vjp(g)

    return run


GRADIENT, COTANGENTS = "value_and_gradient", "value_and_cotangents"
SCATTERED = "conv2d, unfold, strided, padded, dilated"

# What still needs more than autodiff, and by how much, measured on JAX 0.10.2 and on 0.12: a
# fraction of the bytes of the arguments.
OVER = {
    # one number a row, for the second projection, which keeps the digits of the tail
    ("log_softmax", "bfloat16", COTANGENTS): (0.004, 0.004),
    ("log_softmax along the middle axis", "bfloat16", COTANGENTS): (0.004, 0.004),
    # a row of the array
    ("norm of order 1", "float32", GRADIENT): (0.0038, 0.0038),
    ("matmul, vector and batched matrix", "bfloat16", COTANGENTS): (0.031, 0),
    # 8 bytes of 4 MB
    ("matmul, matrix and vector", "bfloat16", GRADIENT): (0, 4e-6),
    ("rnn of one sequence", "float32", GRADIENT): (0, 0.268),
    ("rnn of one sequence", "float32", COTANGENTS): (0, 0.209),
    # patches are many times their image, in float32 too
    ("unfold, large windows", "float32", GRADIENT): (9.72, 0),
    ("unfold, large windows", "bfloat16", GRADIENT): (0, 13.3),
    ("conv2d by unfold", "bfloat16", GRADIENT): (8.41, 0),
    ("conv2d by unfold", "bfloat16", COTANGENTS): (0, 1.63),
    (SCATTERED, "bfloat16", GRADIENT): (0, 0.42),
    (SCATTERED, "bfloat16", COTANGENTS): (0, 2.94),
}


# These figures do not depend on the optimisation level that conftest sets: it is LLVM's, and
# memory is allotted before. They do depend on JAX's version.
@pytest.mark.parametrize("program", [value_and_gradient, value_and_cotangents])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_case_with("size", SIZES, long=SIZES[1:])
def test_scratch_memory(case: Call, size, dtype, program):
    args = [jax.ShapeDtypeStruct(s, dtype) for s in at_size(case, *size)]
    n = tuple(range(len(args)))
    if program is value_and_cotangents:
        args.append(jax.eval_shape(case.op, *args))
    hand, auto = (temp(program(f, n), *args) for f in (case.op, fnnet.plain(case.op)))
    old, new = OVER.get((case.name, dtype, program.__name__), (0, 0))
    given = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(args))
    assert hand - auto <= given * (old if jax.__version_info__ < (0, 12) else new)


def test_rows_that_need_more_are_rows():
    assert {name for name, _, _ in OVER} <= {case.name for case in CASES}


@each_case()
def test_stored_bytes(case: Call, key):
    """For every choice of arguments to differentiate."""
    args = case.args(key)
    more = []
    for count in range(1, len(args) + 1):
        for n in itertools.combinations(range(len(args)), count):

            def of_some(f, n=n):
                def g(*given):
                    it = iter(given)
                    return f(*[next(it) if i in n else a for i, a in enumerate(args)])

                return g

            some = [args[i] for i in n]
            if stored(of_some(case.op), *some) > stored(of_some(case.plain), *some):
                more.append(f"test_stored_bytes: {n}")
    assert more == [test for test in case.excuses if test.startswith("test_stored_bytes: ")]
    for test in more:  # all choices but these
        case.excuse(test)


def _mlp(lin, relu, mse):
    def loss(params, x, y):
        for w, b in params[:-1]:
            x = relu(lin(x, w, b))
        return mse(lin(x, *params[-1]), y)

    return loss


def _mlp_args(key, n=64, sizes=(128, 128, 128, 128, 1)):
    keys = jax.random.split(key, len(sizes) + 1)
    params = [
        (jax.random.normal(k, (i, o), "float32"), jnp.zeros(o, "float32"))
        for k, i, o in zip(keys, sizes, sizes[1:], strict=False)
    ]
    x, y = (
        jax.random.normal(k, s, "float32")
        for k, s in zip(keys[-2:], ((n, sizes[0]), (n,)), strict=True)
    )
    return params, x, y


HAND = _mlp(fnnet.lin, fnnet.relu, fnnet.mse)
AUTO = _mlp(
    lambda x, w, b: x @ w + jnp.broadcast_to(b, (len(x), len(b))),
    jax.nn.relu,
    lambda p, t: jnp.mean((p.reshape(t.shape) - t) ** 2),
)


def test_mlp_memory(key):
    args = _mlp_args(key)
    assert temp(jax.grad(HAND), *args) <= temp(jax.grad(AUTO), *args)


def test_mlp_stores_one_activation_a_layer(key):
    """The output of every hidden layer, and the difference pred - targ: nothing else."""
    params, x, y = _mlp_args(key)
    hidden = 3 * 64 * 128 * 4
    difference = 64 * 4
    assert stored(lambda p: HAND(p, x, y), params) == hidden + difference
    # autodiff stores a mask beside each, of one byte an element at best
    assert stored(lambda p: AUTO(p, x, y), params) >= hidden + 3 * 64 * 128 + difference


@pytest.mark.parametrize("policy", POLICIES)
def test_checkpoint_policies_store_no_more(policy, key):
    params, x, y = _mlp_args(key)
    policy = getattr(checkpoint_policies, policy)
    hand, auto = (
        stored(lambda p, f=f: jax.checkpoint(f, policy=policy)(p, x, y), params)
        for f in (HAND, AUTO)
    )
    assert hand <= auto


def test_scan_over_blocks_stores_two_activations_a_block(key):
    """The input of each layer of a block lin, relu, lin; autodiff's relu adds a mask."""
    w = jax.random.normal(key, (5, 2, 32, 32), "float32")
    x = jnp.ones((16, 32), "float32")

    def deep(lin, relu):
        def loss(w):
            return jax.lax.scan(lambda h, w: (lin(relu(lin(h, w[0])), w[1]), None), x, w)[0].sum()

        return loss

    activation = 5 * 16 * 32 * 4
    assert stored(deep(fnnet.lin, fnnet.relu), w) == 2 * activation + w.nbytes
    assert stored(deep(lambda x, w: x @ w, jax.nn.relu), w) >= 2.25 * activation + w.nbytes


def test_frozen_weights_store_no_activations(key):
    """For x alone, lin keeps w; the input of each layer, which only dw needs, is let go."""
    (w, b), *_ = _mlp_args(key)[0]
    x = jnp.ones((64, 128), "float32")
    chain = lambda x: fnnet.lin(jnp.sin(fnnet.lin(jnp.sin(x), w, b)), w, b)  # noqa: E731
    auto = lambda x: jnp.sin(jnp.sin(x) @ w) @ w  # noqa: E731
    assert stored(chain, x) <= stored(auto, x)
