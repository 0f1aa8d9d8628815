"""Rows C1, C5, C6, C8, C9 and G3: a layer, what it stores, its chain rule, and the proof.

Rows C2-C4 and C7 are in tests/ops and tests/net. C8, what else keeps 50 layers alive, is in
tests/net/test_stabilisers.py; here is what it rests on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy

import fnnet
from fnnet import lin, mse, ops, relu
from fnnet.measure.memory import residuals
from fnnet.proof import reference
from fnnet.proof.symbolic import Instance, Sym, prove
from fnnet.proof.symbols import symbol
from tests.cases import CASES, OP_NAMES
from tests.compare import assert_close, cotangent_like


def net(params, x, y):
    """The chapter's two layers."""
    (w1, b1), (w2, b2) = params
    return mse(lin(relu(lin(x, w1, b1)), w2, b2), y)


@pytest.fixture
def chapter(key):
    """200 samples of 100 numbers, 50 hidden units, one output."""
    keys = jax.random.split(key, 4)
    shapes = [(100, 50), (50, 1), (200, 100), (200,)]
    w1, w2, x, y = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
    return [(w1 / 10, jnp.zeros(50)), (w2 / 50**0.5, jnp.zeros(1))], x, y


def test_C1_a_neuron():
    inputs, weights, bias = [1.0, 2.0, 3.0], [0.5, -1.0, 2.0], 0.25
    total = sum(x * w for x, w in zip(inputs, weights, strict=True)) + bias
    assert total == 4.75
    out = total if total > 0 else 0.0
    as_arrays = relu(lin(*(jnp.array(v) for v in (inputs, [[w] for w in weights], [bias]))))
    assert as_arrays.tolist() == [out]


def test_C1_a_dense_layer(key):
    """Every neuron has a weight for every input: one column of w, of shape (n_in, n_out)."""
    keys = jax.random.split(key, 3)
    x, w, b = (jax.random.normal(k, s) for k, s in zip(keys, [(5, 3), (3, 4), (4,)], strict=True))
    plain = [
        [
            sum(p * q for p, q in zip(sample, column, strict=True)) + bias
            for column, bias in zip(w.T.tolist(), b.tolist(), strict=True)
        ]
        for sample in x.tolist()
    ]
    assert_close(lin(x, w, b), jnp.array(plain))
    assert_close(jnp.maximum(jnp.array(plain), 0), relu(lin(x, w, b)))


# C5: what the forward pass must store


def test_C5_what_is_stored_and_why(chapter):
    params, x, y = chapter
    kept = residuals(lambda params: net(params, x, y), params)
    stored = {row.shape: row.name for row in kept if row.kind == "stored"}
    # dw2 = relu(z)ᵀ g needs the activations, and relu's own derivative asks of the same array where
    # it is positive; the loss's derivative needs the difference to the targets. That is all
    assert stored == {(200, 50): "relu: select_n", (200,): "mse: sub"}
    assert kept.stored == (200 * 50 + 200) * 8
    # x for dw1 and w2 for the activations' gradient are needed too, but there already
    assert {row.shape for row in kept if row.kind != "stored"} == {(200, 100), (50, 1)}


def test_C5_what_it_costs(chapter):
    """Stored memory grows with depth and batch; the parameters do not."""
    params, x, y = chapter

    def stored(depth, batch):
        w, x = [jnp.eye(50)] * depth, jnp.ones((batch, 50))

        def deep(w):
            h = x
            for each in w:
                h = relu(lin(h, each))
            return h.sum()

        return residuals(deep, w).stored

    one = 200 * 50 * 8  # an activation of each layer
    assert [stored(depth, 200) for depth in (1, 2, 10)] == [one, 2 * one, 10 * one]
    assert stored(2, 400) == 4 * one

    # computed again instead of stored: the same gradient, for less memory and one forward more
    again = jax.checkpoint(lambda params: net(params, x, y))
    assert residuals(again, params).stored == 0
    assert_close(jax.grad(again)(params), jax.grad(net)(params, x, y))


def test_C5_an_activation_thrown_away_cannot_be_had_back():
    """The same output, two gradients: the backward pass needs more than where it ends."""
    w = jnp.array([[1.0]])
    grads = [
        jax.grad(lambda w, x=x: lin(x, w).sum())(w) for x in (jnp.array([2.0]), jnp.array([3.0]))
    ]
    assert [float(g[0, 0]) for g in grads] == [2, 3]


# C6: the chain rule of mse(lin(l2, w2, b2), y)


def test_C6_the_chain_rule_step_by_step(key):
    keys = jax.random.split(key, 4)
    shapes = [(6, 3), (3, 1), (1,), (6,)]
    l2, w2, b2, y = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
    loss, grads = jax.value_and_grad(lambda *a: mse(lin(*a), y), (0, 1, 2))(l2, w2, b2)

    out = lin(l2, w2, b2)
    dout = 2 * (out - y[:, None]) / 6  # ∂loss/∂out, of out's shape
    by_hand = (dout @ w2.T, l2.T @ dout, dout.sum(0))  # times ∂out/∂l2, ∂out/∂w2, ∂out/∂b2
    assert_close(grads, by_hand)

    # the same with the ops' own passes, in this order
    out, lin_res = ops.lin_fwd(l2, w2, b2)
    value, mse_res = ops.mse_fwd(out, y)
    g, _ = ops.mse_bwd(mse_res, jnp.ones(()))
    assert_close(ops.lin_bwd(lin_res, g), by_hand)
    assert_close(value, loss)

    # and as what the rule is: a product of Jacobians, summed over the number between
    d_loss = jax.jacrev(lambda out: mse(out, y))(out)
    for i, want in enumerate(by_hand):
        d_out = jax.jacrev(lin, i)(l2, w2, b2)
        assert_close(jnp.tensordot(d_loss, d_out, 2), want)


def test_C6_by_symbols():
    """SymPy differentiates the composed loss itself; each entry is the chain of the two rules."""
    l2 = np.array([[symbol("l", (i, k)) for k in range(3)] for i in range(2)])
    w2 = np.array([[symbol("w", (k, 0))] for k in range(3)])
    b2, y = np.array([symbol("b")]), np.array([symbol("y", (i,)) for i in range(2)])
    loss = reference.mse(reference.lin(l2, w2, b2), y)
    g, _ = reference.mse_vjp(reference.lin(l2, w2, b2), y, sympy.Integer(1))
    dl2, dw2, db2 = reference.lin_vjp(l2, w2, b2, g)
    for args, cotangents in ((l2, dl2), (w2, dw2), (b2, db2)):
        for x, ct in zip(args.ravel(), cotangents.ravel(), strict=True):
            assert sympy.expand(sympy.diff(loss, x) - ct) == 0
    x = sympy.Symbol("x")
    assert sympy.diff(x**2, x) == 2 * x


# C8: what the stabilisers rest on


def test_C8_clipping_keeps_the_direction_and_bounds_the_length(chapter):
    params, x, y = chapter
    grads = jax.grad(net)(params, 1e3 * x, y)
    leaves = jax.tree.leaves(grads)
    length = fnnet.norm(jnp.stack([fnnet.norm(leaf) for leaf in leaves]))
    assert length > 100
    shrink = jnp.minimum(1, 1 / length)
    clipped = [leaf * shrink for leaf in leaves]
    assert_close(fnnet.norm(jnp.stack([fnnet.norm(leaf) for leaf in clipped])), jnp.array(1.0))
    assert_close(clipped[0] / fnnet.norm(clipped[0]), leaves[0] / fnnet.norm(leaves[0]))


def test_C8_normalising_a_layer_undoes_its_scale(chapter):
    (params, x, _) = chapter
    (w1, _), _ = params
    for scale in (1e-6, 1.0, 1e6):
        z = fnnet.layer_norm(lin(x, w1 * scale), eps=0.0)
        assert float(z.std()) == pytest.approx(1)


# C9: all of it in NumPy


def test_C9_everything_in_numpy(chapter):
    """A gradient of the twins is jax.grad's; ten steps of it train the net.

    tests/proof/test_reference.py runs fnnet/proof/reference.py as a script: it trains on real
    images to 95 %, without JAX in the process.
    """
    params, x, y = chapter

    def numpy_gradient(w1, b1, w2, b2):
        z = reference.lin(x, w1, b1)
        a = reference.relu(z)
        out = reference.lin(a, w2, b2)
        g, _ = reference.mse_vjp(out, y, 1.0)
        g, dw2, db2 = reference.lin_vjp(a, w2, b2, g)
        (g,) = reference.relu_vjp(z, g)
        _, dw1, db1 = reference.lin_vjp(x, w1, b1, g)
        return reference.mse(out, y), [dw1, db1, dw2, db2]

    x, y = np.asarray(x), np.asarray(y)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    _, grads = numpy_gradient(*leaves)
    assert_close([jnp.asarray(g) for g in grads], jax.tree.leaves(jax.grad(net)(params, x, y)))

    losses = []
    for _ in range(10):
        loss, grads = numpy_gradient(*leaves)
        losses.append(loss)
        leaves = [leaf - 0.1 * g for leaf, g in zip(leaves, grads, strict=True)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


# G3: four witnesses for each rule


@pytest.mark.parametrize("op", OP_NAMES)
def test_G3_every_op_has_a_twin_and_a_proof(op):
    """tests/proof proves each; here: none is left out, forward and backward."""
    assert op in reference.OPS
    assert callable(getattr(reference, op))
    assert callable(getattr(reference, f"{op}_vjp"))
    rows = [case for case in CASES if case.op_name == op]
    assert all(case.twin is not None for case in rows)


def test_G3_the_witnesses_agree(key):
    """Rule, autodiff, twin and differences, here for lin; tests/ops/test_values.py for every op."""
    case = next(case for case in CASES if case.name == "lin")
    args = case.args(key)
    out, vjp = jax.vjp(case.op, *args)
    g = cotangent_like(key, out)
    rule = vjp(g)
    assert_close(rule, jax.vjp(case.plain, *args)[1](g))
    assert_close(rule, tuple(map(jnp.asarray, case.twin(*map(np.asarray, args), np.asarray(g)))))
    h = 1e-6
    for number, ct in enumerate(rule):
        nudge = jnp.zeros_like(args[number]).at[(0,) * args[number].ndim].set(h)
        up, down = (
            [a + s * nudge if i == number else a for i, a in enumerate(args)] for s in (1, -1)
        )
        slope = jnp.sum(g * (case.op(*up) - case.op(*down))) / (2 * h)
        assert float(slope) == pytest.approx(float(ct.ravel()[0]), rel=1e-8)


def test_G3_a_wrong_rule_is_refuted():
    """And the entry shown in which it differs: here a bias gradient that forgets its sum."""

    def forgets_the_sum(x, w, b, g):
        dx, dw, _ = reference.lin_vjp(x, w, b, g)
        return dx, dw, g[0]

    case = Instance({"x": Sym(2, 1), "w": Sym(1, 1), "b": Sym(1)})
    assert prove("lin", cases=[case]).exact
    proof = prove("lin", vjp=forgets_the_sum, cases=[case])
    assert not proof.exact
    (wrong,) = proof.differences
    assert (wrong.argument, str(wrong.rule), str(wrong.difference)) == ("b", "g_00", "g_10")
    assert r"\frac{\partial L}{\partial b_{0}} &= g_{00} + g_{10}" in proof.latex
