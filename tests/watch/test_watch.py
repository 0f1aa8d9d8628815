"""Every rule that a program meets is recorded with its values, and the program stays what it is."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import hijax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.check import check_vjp, declare
from fnnet.watch import WrongRuleError, watch
from tests.watch import rules as planted

X = np.linspace(0.5, 2.0, 4)


def mesh():
    return jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))


def sharded(f):
    return jax.shard_map(f, mesh=mesh(), in_specs=P("d"), out_specs=P("d"))


def on_explicit_axes(f):
    """Mapped over an axis that is cut: JAX slices none of those."""
    explicit = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
    whole = jax.NamedSharding(explicit, P("d"))
    return lambda x: jax.jit(jax.vmap(f))(jax.device_put(x, whole))


def scanned(f):
    return lambda x: lax.scan(lambda c, _: (f(c) / 4, None), x, None, 3)[0]


def branched(f):
    return lambda x: lax.cond(x[0] < 1, f, lambda x: x, x)


def looped(f):
    return lambda x: lax.fori_loop(0, 2, lambda _, c: f(c) / 4, x)


def total(f):
    return lambda x: jnp.sum(f(x))


PROGRAMS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "jit of grad": lambda f: jax.jit(jax.grad(total(f))),
    "grad of jit": lambda f: jax.grad(total(jax.jit(f))),
    "vmap": lambda f: jax.jit(jax.vmap(f)),
    "grad of vmap, eager": lambda f: jax.grad(total(jax.vmap(f))),
    "scan": lambda f: jax.jit(scanned(f)),
    "grad of scan": lambda f: jax.jit(jax.grad(total(scanned(f)))),
    "cond": lambda f: jax.jit(branched(f)),
    "while": lambda f: jax.jit(looped(f)),
    "checkpoint": lambda f: jax.jit(jax.grad(total(jax.checkpoint(f)))),
    "hessian": lambda f: jax.jit(jax.hessian(total(f))),
    "vmap on explicit axes": on_explicit_axes,
    "shard_map": lambda f: jax.jit(sharded(f)),
    "grad of shard_map": lambda f: jax.jit(jax.grad(total(sharded(f)))),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_rule_is_seen_wherever_it_runs(program):
    run = PROGRAMS[program](planted.wrong)
    before = jax.block_until_ready(run(X))
    with watch() as rules:
        during = jax.block_until_ready(run(X))
    (record,) = rules.wrong
    assert (record.rule.name, record.rule.kind) == ("wrong", "custom_vjp")
    assert record.rule.where.endswith("rules.py:15")
    assert "test_watch.py:" in record.called_from
    assert record.report.diagnosis == "scaled"
    assert np.array_equal(before, during)
    assert np.array_equal(before, run(X))


def test_the_values_are_those_that_the_program_met():
    """Drawn ids would be out of range, where this rule is another function's."""
    table, ids = jnp.arange(6.0).reshape(3, 2), jnp.array([2, 0])
    with watch() as rules:
        jax.jit(lambda t: planted.looked_up(jnp.sin(t), ids + 0))(table)
        (record,) = rules
        jax.effects_barrier()
        kept = record._leaves
        assert np.array_equal(kept[0], np.sin(table))
        assert np.array_equal(kept[1], ids)
    rules.assert_right()
    assert record._leaves == []  # let go


def test_what_is_changed_after_the_call():
    x = X.copy()
    with watch() as rules:
        planted.right(x)
        x[:] = np.nan
        (record,) = rules
        assert np.array_equal(record._leaves[0], X)
    rules.assert_right()


def test_kinds():
    with watch() as rules:
        jax.jit(jax.grad(total(planted.wrong_jvp)))(X)
        jax.jit(jax.grad(total(planted.wrong_gradient)))(X)
        jax.jit(jax.grad(lambda x: planted.half_wrong(x, 2 * x).sum()))(X)
    found = {r.rule.name: r for r in rules.check()}
    assert not rules.jax, "what JAX makes of them is not counted beside them"
    assert {name: r.rule.kind for name, r in found.items()} == {
        "wrong_jvp": "custom_jvp",
        "wrong_gradient": "custom_vjp",
        "half_wrong": "custom_vjp",
    }
    assert all(r.verdict == "wrong" for r in found.values())
    assert all("rules.py:" in r.rule.where for r in found.values())
    assert found["half_wrong"].words() == "argument y, scaled"


class Tripled(getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive):
    def __init__(self, aval):
        self.in_avals, self.out_aval, self.params = (aval,), aval, {}
        super().__init__()

    def expand(self, x):
        return 3 * x

    def vjp_fwd(self, nzs_in, x):
        return self(x), None

    def vjp_bwd_retval(self, res, g):
        return (2 * g,)

    def batch_dim_rule(self, axis_data, in_dims):
        return in_dims[0]


def test_a_hijax_primitive():
    def f(x):
        return Tripled(jax.typeof(x))(x)

    with watch() as rules:
        jax.jit(jax.value_and_grad(total(f)))(jnp.asarray(X))
    (record,) = rules.wrong
    assert (record.rule.name, record.rule.kind) == ("Tripled", "hijax primitive")


def test_a_rule_made_anew_at_each_call_is_one_rule():
    def made(power):
        @jax.custom_vjp
        def f(x):
            return x**power

        f.defvjp(lambda x: (x**power, x), lambda x, g: (power * x ** (power - 1) * g,))
        return f

    with watch() as rules:
        for _ in range(3):
            made(2)(X)
            made(3)(X)
    assert [(r.rule.name, r.calls) for r in rules] == [("f", 3), ("f", 3)]
    rules.assert_right()


def test_each_shape_and_static_option_once():
    with watch() as rules:
        for n in (2, 3, 2, 3):
            planted.right(jnp.ones(n))
        planted.right(jnp.ones(2, "float32"))
    assert [r.called_with for r in rules] == ["f64[2]", "f64[3]", "f32[2]"]
    assert [r.calls for r in rules] == [2, 2, 1]


def test_what_was_compiled_before_is_seen():
    run = jax.jit(planted.wrong)
    run(X)
    with watch() as rules:
        run(X)
    assert [r.verdict for r in rules.check()] == ["wrong"]


def test_nothing_is_left_behind():
    calls = [jax.custom_vjp.__call__, jax.custom_jvp.__call__]
    run = jax.jit(planted.right)
    want = str(jax.make_jaxpr(run)(X))
    with watch():
        assert str(jax.make_jaxpr(run)(X)) != want
        run(X)
    assert calls == [jax.custom_vjp.__call__, jax.custom_jvp.__call__]
    assert str(jax.make_jaxpr(run)(X)) == want
    assert "callback" not in run.lower(X).as_text()
    with pytest.raises(ZeroDivisionError), watch():
        raise ZeroDivisionError
    assert calls == [jax.custom_vjp.__call__, jax.custom_jvp.__call__]


def test_nested_and_in_threads():
    with watch() as outer:
        planted.right(X)
        with watch() as inner:
            planted.wrong(X)
        threads = [threading.Thread(target=planted.right, args=(X[:n],)) for n in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [r.rule.name for r in inner] == ["wrong"]
    assert sorted(r.rule.name for r in outer) == ["right"] * 4 + ["wrong"]


def test_a_check_inside_is_not_recorded():
    with watch() as rules:
        planted.right(X)
        rules.report()
        planted.right(X)
    assert [r.calls for r in rules] == [2]


def test_a_declared_surrogate():
    run = jax.jit(jax.value_and_grad(total(planted.rounded)))
    with watch() as rules:
        run(X + 0.1)
    assert [r.verdict for r in rules.check()] == ["wrong"]
    declare(planted.rounded, reason="straight-through", reference=lambda x: x)
    with watch() as rules:
        run(X + 0.1)
    rules.assert_right()
    assert "declared a surrogate: straight-through" in rules.report()
    assert check_vjp(planted.rounded, (X + 0.1,), level="quick").verdict == "correct"


def test_what_is_declared_badly():
    with pytest.raises(ValueError, match="reason must say why"):
        declare(planted.right, reason=" ")
    with pytest.raises(TypeError, match="must be a function"):
        declare(3, reason="so")


def test_max_bytes():
    with watch(max_bytes=100) as rules:
        planted.right(np.ones(10))
        planted.wrong(np.ones(10))
    first, second = rules.check()
    assert (first.verdict, second.verdict) == ("correct", "undecidable")
    assert second.why == "its values take 80 B, and of max_bytes 20 B were left"


def test_what_was_traced_and_did_not_run():
    with watch() as rules:
        jax.eval_shape(planted.wrong, X)
    (record,) = rules.check()
    assert record.verdict == "undecidable"
    assert "was traced and did not run" in rules.report()


def test_what_closes_over_a_trace():
    def outer(y):
        @jax.custom_vjp
        def f(x):
            return x * y

        f.defvjp(lambda x: (x * y, None), lambda _, g: (y * g,))
        return f(y)

    with watch() as rules:
        jax.jit(outer)(X)
    (record,) = rules.check()
    assert record.verdict == "undecidable"
    assert "could be compared neither with autodiff nor with differences" in record.words()


def test_one_that_hangs():
    gate = threading.Event()

    @jax.custom_vjp
    def f(x):
        return jax.pure_callback(lambda v: v, jax.typeof(x), x)

    def bwd(_, g):
        def wait(v):
            gate.wait(20)
            return v

        return (jax.pure_callback(wait, jax.typeof(g), g),)

    f.defvjp(lambda x: (f(x), None), bwd)
    with watch(seconds=1.5) as rules:
        f(jnp.asarray(X))
    (record,) = rules.check()
    gate.set()
    assert record.why == "checking it took more than 1.5 s"


def test_select_and_ignore():
    with watch(ignore=["wrong"]) as rules:
        planted.right(X)
        planted.wrong(X)
    assert [r.rule.name for r in rules] == ["right"]
    assert "left out: wrong" in rules.report()
    with watch(select=["watch/rules.py"]) as rules:
        planted.right(X)
        fnnet.relu(X)
    assert [r.rule.name for r in rules] == ["right"]


def test_no_rule_at_all():
    with watch() as rules:
        jax.nn.relu(X)
    assert rules.report().startswith("no hand-written rule was met: nothing was checked")
    assert "of JAX's own, not checked: 1" in rules.report()
    with pytest.raises(WrongRuleError, match="no hand-written rule was met"):
        rules.assert_right()


def test_a_training_step_of_ops():
    """Ops of fnnet and a key: all recorded, all right, and not one bit changed."""
    params = {"w": jnp.full((4, 3), 0.1), "b": jnp.zeros(3)}
    x = jax.random.normal(jax.random.key(0), (8, 4))
    labels = jnp.arange(8) % 3

    def loss(p, key):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        z = fnnet.lin(fnnet.gelu(jnp.where(kept, x, jnp.zeros_like(x))), p["w"], p["b"])
        return fnnet.cross_entropy(z, labels)

    @jax.jit
    def step(p, key):
        value, grads = jax.value_and_grad(loss)(p, key)
        return jax.tree.map(lambda v, g: v - 0.1 * g, p, grads), value

    args = params, jax.random.key(1)
    before = jax.device_get(step(*args))
    with watch() as rules:
        during = jax.device_get(step(*args))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, during))
    assert {r.rule.name for r in rules} >= {"lin", "gelu", "cross_entropy"}
    rules.assert_right()
    figures = rules.to_dict()
    assert figures["schema"] == 1
    assert {r["verdict"] for r in figures["rules"]} == {"correct"}


@pytest.mark.parametrize("platforms", [["cpu"], ["cpu", "tpu"]])
def test_export_is_what_it_was(platforms):
    with watch() as rules:
        exported = jax.export.export(jax.jit(planted.right), platforms=platforms)(X)
        assert "callback" not in exported.mlir_module()
        exported.serialize()
    assert len(rules) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": "deep"}, "level must be one of quick, full; got 'deep'"),
        ({"max_bytes": 0}, "max_bytes must be positive; got 0"),
        ({"seconds": -1}, "seconds must be positive; got -1"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words), watch(**options):
        pass
