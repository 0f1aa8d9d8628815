"""`out_sharding=`: tensor parallelism as Megatron has it, on a mesh of explicit axes.

A layer split by columns is followed by one split by rows. The second sums over a sharded axis, so
its result's sharding must be said. Gradients, and no more collectives than autodiff has.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import P
from jax.sharding import AxisType, NamedSharding

import fnnet
from fnnet import attention, conv2d, glu_mlp, lin, matmul


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        yield mesh


def put(mesh, number, shape, spec, dtype="float32"):
    x = 0.3 * jax.random.normal(jax.random.key(number), shape, dtype)
    return jax.device_put(x, NamedSharding(mesh, spec))


def auto_lin(x, w, b, **options):
    y = jnp.matmul(x, w, **options)
    return y + jnp.broadcast_to(b, y.shape)


def lax_conv(x, w, b, **options):
    y = jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )
    return y + jnp.broadcast_to(b, y.shape)


def convolutions(conv):
    def f(x, w1, b1, w2, b2):
        h = conv(x, w1, b1, out_sharding=P("data", None, None, "model"))
        return conv(jax.nn.relu(h), w2, b2, out_sharding=P("data"))

    return f


def mlp(lin):
    def f(x, w1, b1, w2, b2):
        return lin(jax.nn.gelu(lin(x, w1, b1)), w2, b2, out_sharding=P("data"))

    return f


def heads(matmul, attend):
    def f(x, wq, wk, wv, wo):
        split = P("data", None, "model", None)
        q, k, v = (matmul(x, w).reshape(8, 6, 4, 8, out_sharding=split) for w in (wq, wk, wv))
        o = attend(q, k, v).reshape(8, 6, 32, out_sharding=P("data", None, "model"))
        return matmul(o, wo, out_sharding=P("data"))

    return f


def auto_glu(x, w_gate, w_up, w_down):
    h = jax.nn.silu(jnp.matmul(x, w_gate)) * jnp.matmul(x, w_up)
    return jnp.matmul(h, w_down, out_sharding=P("data"))


COLUMNS, ROWS = ((16, 32), P(None, "model")), ((32, 16), P("model", None))
CHANNELS = [
    ((3, 3, 16, 32), P(None, None, None, "model")),
    ((32,), P("model")),
    ((3, 3, 32, 16), P(None, None, "model", None)),
    ((16,), P()),
]
BLOCKS = {
    "mlp": (mlp(lin), mlp(auto_lin), [COLUMNS, ((32,), P("model")), ROWS, ((16,), P())]),
    "glu_mlp": (
        lambda *args: glu_mlp(*args, out_sharding=P("data")),
        auto_glu,
        [COLUMNS, COLUMNS, ROWS],
    ),
    "attention": (
        heads(matmul, attention),
        heads(jnp.matmul, jax.nn.dot_product_attention),
        [COLUMNS, COLUMNS, COLUMNS, ROWS],
    ),
    "conv2d": (convolutions(conv2d), convolutions(lax_conv), CHANNELS),
    "conv2d by unfold": (
        convolutions(lambda *args, **options: conv2d(*args, form="unfold", **options)),
        convolutions(lax_conv),
        CHANNELS,
    ),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_megatrons_blocks(block, mesh):
    hand, auto, weights = BLOCKS[block]
    shape, dtype = ((8, 6, 5, 16), "float64") if "conv2d" in block else ((8, 6, 16), "float32")
    layouts = [(shape, P("data")), *weights]
    args = [put(mesh, i, *layout, dtype) for i, layout in enumerate(layouts)]

    def compiled(f):
        n = tuple(range(len(args)))
        gradient = jax.grad(lambda *a: jnp.sum(f(*a) ** 2), n)
        return jax.jit(gradient).lower(*args).compile()

    def collectives(program):
        kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
        return len(re.findall(rf" (?:{kinds})(?:-start)?\(", program.as_text()))

    by_hand, by_jax = compiled(hand), compiled(auto)
    assert jax.typeof(hand(*args)).sharding.spec[0] == "data"
    for got, want, arg in zip(by_hand(*args), by_jax(*args), args, strict=True):
        assert jax.typeof(got).sharding == jax.typeof(arg).sharding
        assert jnp.allclose(got, want, rtol=1e-4, atol=1e-5)
    assert collectives(by_hand) <= collectives(by_jax)


def test_the_result_is_sharded_as_said(mesh):
    x, w = put(mesh, 0, (2, 8, 32), P(None, "data", "model")), put(mesh, 1, *ROWS)
    b = put(mesh, 2, (16,), P("model"))
    for spec in (P(), P(None, "data"), P(None, "data", "model")):
        whole = P(*spec, *[None] * (3 - len(spec)))
        assert matmul(x, w, out_sharding=spec).sharding.spec == whole
        assert matmul(x, w, out_sharding=NamedSharding(mesh, spec)).sharding.spec == whole
        assert lin(x, w, b, out_sharding=spec).sharding.spec == whole
    mapped = jax.vmap(lambda x: lin(x, w, out_sharding=P("data")))(x)
    assert mapped.sharding.spec == P(None, "data", None)
    assert jnp.allclose(mapped, lin(x, w, out_sharding=P(None, "data")))


@pytest.mark.parametrize("form", ["direct", "unfold"])
def test_conv2d_in_groups_is_sharded_as_said(form, mesh):
    x = put(mesh, 0, (8, 6, 5, 4), P("data", None, None, "model"), "float64")
    w = put(mesh, 1, (2, 2, 2, 6), P(None, None, None, "model"), "float64")
    said = P("data", None, None, "model")

    def gradients(**options):
        def loss(x, w):
            y = conv2d(x, w, form=form, groups=2, stride=2, **options)
            assert not options or jax.typeof(y).sharding.spec == said
            return jnp.sum(y**2)

        return jax.jit(jax.grad(loss, (0, 1)))

    got = gradients(out_sharding=said)(x, w)
    want = gradients()(*(jax.reshard(a, P()) for a in (x, w)))
    for a, b, like in zip(got, want, (x, w), strict=True):
        assert a.sharding == like.sharding
        assert jnp.allclose(jax.reshard(a, P()), b, rtol=1e-12)
    mapped = jax.vmap(lambda x: conv2d(x, w, form=form, groups=2, out_sharding=said))(x[None])
    assert mapped.sharding.spec == P(None, *said)


def test_without_a_mesh_around_but_arrays_on_one():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    x, w = put(mesh, 0, (8, 32), P("data", "model")), put(mesh, 1, *ROWS)
    assert lin(x, w, out_sharding=P("data")).sharding.spec == P("data", None)


CALLS = {
    "matmul": lambda x, w, **options: matmul(x, w, **options),
    "lin": lambda x, w, **options: lin(x, w, **options),
    "glu_mlp": lambda x, w, **options: glu_mlp(x, w, w, w.T, **options),
    "conv2d": lambda x, w, **options: conv2d(x[:, None, None], w[None, None], **options),
}


@pytest.mark.parametrize("op", CALLS)
def test_errors(op, mesh):
    call = CALLS[op]
    x, w = put(mesh, 0, (8, 32), P("data", "model")), put(mesh, 1, *ROWS)
    with pytest.raises(Exception, match=rf"{op}: .*out_sharding=jax.P") as raised:
        call(x, w)
    assert type(raised.value).__name__ == "ShardingTypeError"
    x, w = put(mesh, 0, (8, 16), P("data")), put(mesh, 1, *COLUMNS)
    with pytest.raises(TypeError, match=f"{op}: out_sharding must be a jax.P"):
        call(x, w, out_sharding="data")
    with pytest.raises(ValueError, match=rf"{op}: out_sharding=.* names \['nobody'\]"):
        call(x, w, out_sharding=P("nobody"))
    with pytest.raises(ValueError, match=f"{op}: out_sharding=.* 5 axes; the result has [24]"):
        call(x, w, out_sharding=P(None, None, None, None, "data"))


@pytest.mark.parametrize("op", CALLS)
def test_off_a_mesh_it_is_refused(op):
    x, w = jnp.ones((8, 16), "float32"), jnp.ones((16, 32), "float32")
    with pytest.raises(ValueError, match=f"{op}: out_sharding=.* lie on none"):
        CALLS[op](x, w, out_sharding=P("data"))
    assert fnnet.lin(x, w, out_sharding=None).shape == (8, 32)
