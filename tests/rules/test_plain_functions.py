"""What `plain` leaves as it is: arguments, types, effects, meshes, what is no rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fnnet.rules import plain
from tests.rules.textbook import same
from tests.rules.wrong import X, bits, left, shard_map, wrong, wrong_forward


def test_closed_over_tracers():
    def loss(w):
        return plain(lambda x: wrong(x * w))(X).sum()

    want = jax.grad(lambda w: jnp.tanh(X * w).sum())(2.0)
    same(jax.grad(loss)(2.0), want)
    same(jax.jit(jax.grad(loss))(2.0), want)
    same(jax.jvp(loss, (2.0,), (1.0,))[1], want)
    same(jax.vmap(jax.grad(loss))(jnp.array([2.0]))[0], want)


def test_arguments():
    """Pytrees, keywords, what is no array, keys, integers and booleans."""

    def f(p, mode, n, *rest, key, scale=1.0, activation=wrong, none=None):
        noise = jax.random.normal(key, p["a"].shape) * (0.0 if none is None else 1.0)
        y = activation(p["a"]) * n * scale + noise if mode == "on" else p["a"]
        return {
            "y": y,
            "i": p["i"] + 1,
            "key": jax.random.split(key)[0],
            "rest": rest,
            "none": None,
        }

    args = ({"a": X, "i": jnp.arange(3)}, "on", 3, jnp.array([True, False]), 2.5)
    options = {"key": jax.random.key(1), "scale": np.float64(2.0)}
    got, want = plain(f)(*args, **options), f(*args, **options)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert jax.typeof(g) == jax.typeof(w)
        if jax.dtypes.issubdtype(w.dtype if hasattr(w, "dtype") else float, jax.dtypes.prng_key):
            g, w = jax.random.key_data(g), jax.random.key_data(w)
        assert np.array_equal(g, w)

    def loss(a, f):
        return f({"a": a, "i": 0}, *args[1:], **options)["y"].sum()

    same(jax.grad(lambda a: loss(a, plain(f)))(X), 6 * (1 - jnp.tanh(X) ** 2))


def test_signature_is_kept():
    def f(x, *, k=2):
        """A docstring."""
        return wrong(x) * k

    assert plain(f).__name__ == "f"
    assert plain(f).__doc__ == f.__doc__
    assert plain(f).__wrapped__ is f


@pytest.mark.parametrize("x", [2.0, jnp.asarray(2.0), jnp.float32(2), 3, jnp.int32(3), True, 1j])
def test_weak_types(x):
    def f(x):
        return x * 2, x

    got, want = plain(f)(x), f(x)
    assert jax.tree.map(jax.typeof, got) == jax.tree.map(jax.typeof, want)
    assert jax.tree.map(lambda a: bool(jnp.isscalar(a)), got) == jax.tree.map(jnp.isscalar, want)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_dtypes(dtype):
    x = X.astype(dtype)

    def f(x):
        return wrong(x) @ wrong(x)

    assert bits(plain(f)(x)) == bits(f(x))
    assert plain(f)(x).dtype == dtype
    if "complex" not in dtype:
        assert bits(jax.grad(plain(f))(x)) == bits(jax.grad(lambda x: jnp.tanh(x) @ jnp.tanh(x))(x))


def test_stop_gradient_stays():
    def f(x):
        return lax.stop_gradient(wrong(x)) * wrong(x)

    same(jax.grad(lambda x: plain(f)(x).sum())(X), jnp.tanh(X) * (1 - jnp.tanh(X) ** 2), 1e-12)
    same(jax.grad(lambda x: plain(lax.stop_gradient)(x).sum())(X), jnp.zeros(8))


def test_kinks_of_jax_nn():
    assert jax.grad(jax.nn.relu)(0.0) == 0.0
    assert jax.grad(plain(jax.nn.relu))(0.0) == 0.5


def test_a_solver_without_a_transpose():
    """It has no jaxpr there: forward mode asks for none."""

    def f(x):
        return lax.custom_linear_solve(
            lambda v: 2 * v + 0 * wrong(v), x, lambda _, b: b / 2 + 0 * wrong(b)
        )

    assert not left(plain(f), X)
    assert bits(plain(f)(X)) == bits(f(X))
    same(jax.jvp(plain(f), (X,), (X + 1,))[1], (X + 1) / 2)


def test_the_context_of_an_operation_stays():
    """Metadata for the compiler, set around a part of f, for one."""

    def f(x):
        with set_xla_metadata(note="here"):
            y = wrong(x) * 2
        return y + 1

    plained = jax.jit(plain(f)).lower(X).as_text()
    assert (
        plained.count('note = "here"') == jax.jit(f).lower(X).as_text().count('note = "here"') > 0
    )


def test_effects():
    seen = []

    def f(x):
        jax.debug.callback(lambda t: seen.append(float(t)), x.sum(), ordered=True)
        y = jax.pure_callback(lambda a: 2 * np.asarray(a), jax.typeof(x), wrong(x))
        return lax.scan(lambda c, a: (jax.debug.callback(seen.append, a), wrong(c))[::-1], y, x)[0]

    for call in (plain(f), jax.jit(plain(f)), plain(jax.jit(f))):
        seen.clear()
        got = call(X)
        jax.effects_barrier()
        assert len(seen) == 1 + len(X)
        same(got, f(X))
        seen.clear()


def test_pallas_kernels_stay():
    """A kernel's jaxpr works on references; the rules in it have no say there."""

    def kernel(x_ref, o_ref):
        o_ref[...] = wrong(x_ref[...]) + jax.nn.silu(x_ref[...])

    def f(x):
        return pallas.pallas_call(kernel, jax.typeof(x), interpret=True)(wrong(x))

    assert bits(plain(f)(X)) == bits(f(X))
    assert bits(jax.jit(plain(f))(X)) == bits(jax.jit(f)(X))


def test_references_stay():
    def f(x):
        ref = jax.new_ref(x)

        def body(c, _):
            ref[...] = wrong(ref[...]) + c
            return c + 1, None

        lax.scan(body, 0.0, length=3)
        return ref[...]

    assert bits(plain(f)(X)) == bits(f(X))
    assert bits(jax.jit(plain(f))(X)) == bits(jax.jit(f)(X))


def test_explicit_mesh():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, jax.NamedSharding(mesh, P("d")))

        def f(x):
            y = jax.reshard(wrong(x), P())
            return y * wrong_forward(jax.jit(wrong)(x).sum())

        for wrap in (lambda f: f, jax.jit):
            got = wrap(plain(f))(x)
            assert jax.typeof(got) == jax.typeof(wrap(f)(x))
            assert bits(got) == bits(wrap(f)(x))
            got = wrap(jax.grad(lambda x: plain(f)(x).sum()))(x)
            assert got.sharding.spec == P("d")
    # with no mesh set, under jit
    same(jax.device_get(jax.jit(plain(wrong))(x)), jax.device_get(jnp.tanh(X)))


def test_partly_manual_and_nested_shard_map():
    mesh = jax.make_mesh((2, 4), ("d", "m"), axis_types=(AxisType.Auto,) * 2)

    def f(x):
        def outer(x):
            inner = jax.shard_map(
                lambda x: lax.psum(wrong(x), "m"), in_specs=P("m"), out_specs=P(), axis_names={"m"}
            )
            return lax.psum(wrong(x).sum() + inner(x), "d")

        return jax.shard_map(outer, mesh=mesh, in_specs=P("d"), out_specs=P(), axis_names={"d"})(x)

    assert not left(plain(f), X)
    assert bits(jax.jit(plain(f))(X)) == bits(jax.jit(f)(X))


def test_gradient_inside_shard_map():
    def local(f):
        return lambda x: jax.grad(lambda x: lax.psum(f(x).sum(), "d"))(x)

    got, want = (shard_map(local(f), out_specs=P("d"))(X) for f in (plain(wrong), jnp.tanh))
    same(got, want)
    # and the other way round
    inside = plain(shard_map(lambda x: lax.psum(wrong(x).sum(), "d")))
    same(jax.jit(jax.grad(inside))(X), 1 - jnp.tanh(X) ** 2)
