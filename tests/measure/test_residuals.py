"""What a backward pass stores: row C5, names, sources, and what is left out."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import fnnet
from fnnet.measure.memory import residuals
from fnnet.measure.origin import Origin, origin
from fnnet.rules.jaxpr import opened


class Layer(NamedTuple):
    w: jax.Array
    b: jax.Array


def _net(params, x):
    for w, b in params:
        x = fnnet.relu(fnnet.lin(x, w, b))
    return x


def _args(n=64, size=128, layers=3):
    layer = Layer(jnp.ones((size, size), "float32"), jnp.ones(size, "float32"))
    return [layer] * layers, jnp.ones((n, size), "float32")


def rows(kept, kind):
    return [(r.name, r.shape, r.dtype, r.nbytes) for r in kept if r.kind == kind]


def test_three_layers_of_lin_and_relu_store_their_outputs():
    """Row C5: one activation a layer; the input of each lin is the output of the relu before."""
    params, x = _args()
    kept = residuals(_net, params, x)
    activation = ("relu: select_n", (64, 128), "float32", 32_768)
    assert rows(kept, "stored") == [activation] * 3
    assert kept.stored == 3 * 32_768
    weight = ((128, 128), "float32", 65_536)
    assert sorted(rows(kept, "argument")) == [
        ("params[0].w", *weight),
        ("params[1].w", *weight),
        ("params[2].w", *weight),
        ("x", (64, 128), "float32", 32_768),
    ]
    assert kept.given == 3 * 65_536 + 32_768
    assert kept.total == kept.stored + kept.given == sum(r.nbytes for r in kept)


def test_what_automatic_and_checkpointed_gradients_store():
    """Row C5: autodiff of the usual text adds a mask a layer; a checkpoint stores nothing."""
    params, x = _args()

    def usual(params, x):
        for w, b in params:
            x = jax.nn.relu(x @ w + jnp.broadcast_to(b, (64, 128)))
        return x

    automatic = residuals(usual, params, x)
    assert automatic.stored >= 3 * (32_768 + 8192) - 32_768
    assert automatic.stored > residuals(_net, params, x).stored
    assert residuals(fnnet.plain(_net), params, x).stored > residuals(_net, params, x).stored
    checkpointed = residuals(jax.checkpoint(_net), params, x)
    assert checkpointed.stored == 0
    assert {r.kind for r in checkpointed} == {"argument"}


def test_fewer_derivatives_store_less():
    params, x = _args()
    for_x = residuals(_net, params, x, argnums=1)
    assert [r.name for r in for_x if r.kind == "argument"] == [f"params[{i}].w" for i in range(3)]
    assert for_x.stored == 3 * 32_768
    one = residuals(fnnet.lin, x, params[0].w, argnums=(1,))
    assert rows(one, "argument") == [("x", (64, 128), "float32", 32_768)]
    assert residuals(fnnet.lin, x, params[0].w, argnums=-1) == one


def test_the_source_line_is_the_users():
    def f(x, y):
        h = jnp.sin(x)
        h = fnnet.relu(h * y)
        return h

    line = f.__code__.co_firstlineno
    # relu is traced here, once for all calls at this shape: not the line wanted below
    residuals(fnnet.relu, jnp.ones(3))
    found = {r.name: r.where.rsplit(":", 1) for r in residuals(f, jnp.ones(3), jnp.ones(3))}
    assert found["cos"][0].endswith("test_residuals.py")
    assert int(found["cos"][1]) == line + 1
    assert int(found["relu: select_n"][1]) == line + 2
    # within a compiled function of the user's own the lines are its own
    found = {r.name: r.where for r in residuals(jax.jit(f), jnp.ones(3), jnp.ones(3))}
    assert found["f: cos"].endswith(f":{line + 1}")
    assert found["relu: select_n"].endswith(f":{line + 2}")


def test_an_array_is_counted_once():
    w = jnp.ones((4, 4))

    def twice(w):
        y = fnnet.relu(w)
        return fnnet.lin(y, w) + fnnet.lin(y, y) + jax.jit(lambda y: (y * y, y))(y)[0]

    kept = residuals(twice, w)
    assert rows(kept, "stored") == [("relu: select_n", (4, 4), "float64", 128)]
    assert rows(kept, "argument") == [("w", (4, 4), "float64", 128)]


def test_what_a_compiled_function_hands_through_is_still_the_callers():
    jaxpr, _ = opened(jax.make_jaxpr(lambda x, y: jax.jit(lambda a, b: (b * 2, a))(y, x))(1.0, 2.0))
    doubled, handed = (origin(jaxpr, v) for v in jaxpr.outvars)
    assert doubled.name == "mul"
    assert len(doubled.path) == 2
    assert handed == Origin(jaxpr.invars[1])
    stacked, _ = opened(
        jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c, c), x, None, 3)[1])(1.0)
    )
    assert origin(stacked, stacked.outvars[0]).path, "a loop makes copies"


def test_constants_and_empty_arrays():
    c = jnp.ones((5, 3), "float32")
    kept = residuals(lambda x: jnp.sum(x * c) * 2, jnp.ones((5, 3), "float32"))
    assert rows(kept, "constant") == [("(closed over)", (5, 3), "float32", 60)]
    assert (kept.stored, kept.given) == (0, 60)
    # nothing of relu's or register's own numbers, which travel as empty arrays
    assert len(residuals(fnnet.relu, jnp.ones((0, 3)))) == 0
    assert repr(residuals(lambda x: x + 1, c)) == "nothing is stored for the backward pass"


def test_loops_store_a_stack():
    w = jnp.ones((5, 4, 4))

    def deep(w):
        return jax.lax.scan(lambda h, w: (fnnet.relu(fnnet.lin(h, w)), None), jnp.ones((2, 4)), w)[
            0
        ]

    kept = residuals(deep, w)
    assert ("scan/relu: select_n", (5, 2, 4), "float64", 320) in rows(kept, "stored")
    assert kept.stored == 640


def test_a_copy_made_by_a_loop_is_no_argument():
    """A value handed through a scan's body is stacked once a turn, and that is new memory."""
    x = jnp.ones(3)
    kept = residuals(lambda x: jax.lax.scan(lambda c, _: (c * c, None), x, None, 4)[0], x)
    assert (kept.stored, kept.given) == (4 * 24, 0)


def test_arguments_of_every_kind():
    x = jax.ShapeDtypeStruct((3, 2), "float32")

    def f(x, scale, labels, mode, *more, **options):
        y = jnp.exp(x) * scale + jnp.sin(more[0]) * jnp.astype(labels, "float32")
        return y if mode == "plain" else -y

    labels = jnp.ones((3, 2), int)
    kept = residuals(f, x, 2.0, labels, "plain", x)
    assert {r.name for r in kept} >= {"exp", "cos"}
    assert {r.name for r in residuals(lambda *a: a[0] * a[1], x, x)} == {"a[0]", "a[1]"}
    assert {r.name for r in residuals(max_of_dict, {"p": x, "q": x})} == {"d['p']", "d['q']"}


def max_of_dict(d):
    return d["p"] * d["q"]


def test_the_repr_and_json():
    params, x = _args()
    kept = residuals(_net, params, x)
    lines = repr(kept).splitlines()
    assert lines[0].split() == ["kind", "name", "array", "bytes", "computed", "at"]
    assert len(lines) == 2 + len(kept)
    assert lines[-1] == ("stored anew 98,304 bytes (96.0 KiB), given 229,376 bytes (224 KiB)")
    assert [line.split()[0] for line in lines[1:-1]] == ["argument"] * 4 + ["stored"] * 3
    figures = json.loads(json.dumps(kept.to_dict()))
    assert figures["stored"] == 98_304
    assert figures["rows"][0]["kind"] == "argument"


def test_errors():
    with pytest.raises(ValueError, match=r"nothing to differentiate.*got"):
        residuals(lambda n: n, jnp.arange(3))
    with pytest.raises(ValueError, match="nothing to differentiate"):
        residuals(lambda x, n: x, jnp.ones(3), jnp.arange(3), argnums=1)
    for wrong in (2, (0, -3)):
        with pytest.raises(ValueError, match=r"argnums .* with 2 argument\(s\)"):
            residuals(lambda x, y: x, 1.0, 2.0, argnums=wrong)
