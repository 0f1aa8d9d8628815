"""softmax and the losses: the tail, what does not count, what is hidden, weights of classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import cross_entropy, linear_cross_entropy, log_softmax, plain, softmax
from fnnet.proof import reference as twin
from tests.compare import assert_close

Y = jnp.array([0, 2, 1])
Z = jnp.array([[1.0, -0.5, 2.0], [0.25, 1.5, -1.0], [0.0, 0.5, 3.0]])


def by_labels(z, y=None, **options):
    return cross_entropy(z, jnp.zeros(z.shape[:-1], int) if y is None else y, **options)


def by_distributions(z, y=None, **options):
    y = jnp.zeros(z.shape[:-1], int) if y is None else y
    return cross_entropy(z, jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype), **options)


def linear(mode, chunk):
    """cross_entropy of logits that a product makes."""

    def loss(z, y=None, **options):
        y = jnp.zeros(z.shape[:-1], int) if y is None else y
        w = jnp.eye(z.shape[-1], dtype=z.dtype)
        return linear_cross_entropy(z, w, y, mode=mode, chunk=chunk, **options)

    loss.__name__ = f"{mode}_{chunk}"
    return loss


LINEAR = [linear("forward", 2), linear("recompute", 2)]
LOSSES = [by_labels, by_distributions, *LINEAR]


def first_softmax(z):
    return softmax(z)[..., 0].sum()


def first_log_softmax(z):
    return -log_softmax(z)[..., 0].sum()


@pytest.mark.parametrize("form", [lambda f: f, plain], ids=["rule", "plain"])
@pytest.mark.parametrize("f", [first_softmax, first_log_softmax, *LOSSES])
def test_a_confident_class_is_minus_the_others(f, form):
    """To six digits of a number 10^17 below 1, where 1 - p is 0; with a tie, too."""
    z = jnp.array([[40.0, 0.0, 1.0]])
    dz = jax.grad(form(f))(z)[0]
    p = np.exp([-40.0, -39.0]) * (-1 if f is first_softmax else 1)
    np.testing.assert_allclose(dz, [-p.sum(), *p], rtol=1e-6)
    tied = jax.grad(form(f))(jnp.array([[40.0, 40.0, 0.0]]))[0]
    assert abs(tied.sum()) <= 1e-16
    assert abs(tied[1]) == pytest.approx(0.25 if f is first_softmax else 0.5, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_confident_loss_is_log1p_of_the_rest(loss):
    rest = np.exp(-40.0) + np.exp(-39.0)
    assert loss(jnp.array([[40.0, 0.0, 1.0]])) == pytest.approx(np.log1p(rest), rel=1e-12, abs=0)
    smoothed = loss(jnp.array([[40.0, 0.0, 1.0]]), smoothing=1e-20)
    assert smoothed == pytest.approx(np.log1p(rest) + 1e-20 / 3 * 79, rel=1e-12, abs=0)
    assert loss(jnp.array([[40.0, 40.0, 0.0]])) == pytest.approx(np.log(2.0), rel=1e-12)
    assert loss(jnp.array([[7.0]])) == 0  # one class


@pytest.mark.parametrize(
    ("loss", "label", "reduction"),
    [
        (by_labels, -1, "none"),
        (by_labels, 3, "mean"),
        (LINEAR[0], 3, "sum"),
        (LINEAR[0], -1, "mean"),
        (LINEAR[1], 3, "none"),
        (LINEAR[1], -1, "mean"),
    ],
)
def test_a_label_that_is_no_class_gives_a_gradient_of_nan(loss, label, reduction):

    def total(z, **options):
        return loss(z, Y.at[1].set(label), reduction=reduction, **options).sum()

    for f in (total, plain(total)):
        dz = jax.grad(f)(Z)
        assert np.isnan(dz).any(1).tolist() == [False, True, False]
    assert np.isfinite(jax.grad(functools.partial(total, ignore_index=label))(Z)).all()


def test_a_loss_that_is_not_used_has_no_gradient():
    """jnp.where takes the losses of such labels out: the others train on."""
    y = jnp.array([0, -100, 1])

    def total(z):
        return jnp.where(y >= 0, cross_entropy(z, y, reduction="none"), jnp.zeros(3)).sum()

    assert_close(jax.grad(total)(Z)[::2], jax.grad(by_labels)(Z[::2], y[::2]) * 2)
    assert (jax.grad(total)(Z)[1] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_that_cancel_are_not_nothing(loss):
    z, y = Z[:2], Y[:2]
    cancel, nothing = jnp.array([1.0, -1.0]), jnp.zeros(2)
    assert not np.isfinite(loss(z, y, weights=cancel))
    assert not np.isfinite(jax.grad(loss)(z, y, weights=cancel)).any()
    assert loss(z, y, weights=nothing) == 0
    assert (jax.grad(loss)(z, y, weights=nothing) == 0).all()


@pytest.mark.parametrize("mode", ["forward", "recompute"])
@pytest.mark.parametrize(("chunk", "softcap"), [(1, 2.0), (2, None)])
def test_a_class_that_is_ruled_out_hides_its_weights(mode, chunk, softcap):
    """NaN or inf in its column of w: all is as if the class were not there."""
    w = jnp.array([[1.0, 0.5, -1.0, 0.25], [0.0, 2.0, 1.0, -0.5], [1.0, 1.0, 0.0, 2.0]])
    b = jnp.array([0.5, 0.0, 1.0, -1.0])
    y, without = jnp.array([0, 3, 0]), jnp.array([0, 1, 3])
    options = {"mode": mode, "chunk": chunk, "softcap": softcap, "z_loss": 0.1}

    def loss(x, w, b, y):
        return linear_cross_entropy(x, w, y, b, **options)

    passes = jax.value_and_grad(loss, (0, 1, 2))
    want, (dx, dw, db) = passes(Z, w[:, without], b[without], jnp.array([0, 2, 0]))
    for wild in (jnp.nan, jnp.inf):
        hidden = w.at[:, 2].set(wild)
        got, (dx2, dw2, db2) = passes(Z, hidden, b.at[2].set(-jnp.inf), y)
        assert_close((got, dx2, dw2[:, without], db2[without]), (want, dx, dw, db))
        assert (dw2[:, 2] == 0).all()
        assert db2[2] == 0


EDGES = [
    (Z, jnp.eye(3)[Y]),  # zeros in t
    (Z.at[0, 1].set(-jnp.inf), jnp.eye(3)[Y]),  # a class of probability 0
    (Z.at[1].set(jnp.array([60.0, 0.0, 1.0])), jnp.eye(3)[Y]),  # saturated
    (Z.at[2].set(1.0), jnp.full((3, 3), 1 / 3)),  # ties
]


@pytest.mark.parametrize("edge", range(len(EDGES)))
@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1, "z_loss": 0.01}], ids=["bare", "all"])
def test_rule_and_plain_form_are_the_twin_at_edges(edge, options):
    """What the plain form is by autodiff is what a rule is checked against."""
    z, t = EDGES[edge]
    if options and np.isinf(z).any():
        pytest.skip("the loss is infinite")
    want = twin.cross_entropy_vjp(np.asarray(z), np.asarray(t), 1.0, **options)
    for f in (cross_entropy, plain(cross_entropy)):
        assert_close(jax.grad(f, (0, 1))(z, t, **options), tuple(map(jnp.asarray, want)))
    (want,) = twin.cross_entropy_vjp(np.asarray(z), np.asarray(Y), 1.0, **options)[:1]
    for f in (by_labels, plain(by_labels)):
        assert_close(jax.grad(f)(z, Y, **options), jnp.asarray(want))


def test_second_derivatives_are_symmetric():
    t, w = jnp.eye(3)[Y], jnp.array([1.0, 2.0, 0.5])

    def loss(z, t, w):
        return cross_entropy(z, t, weights=w, reduction="sum", z_loss=0.1)

    hessian = jax.hessian(loss, (0, 1, 2))(Z, t, w)
    for i in range(3):
        for j in range(i):
            n = (Z, t, w)[i].ndim
            axes = (*range(n, hessian[i][j].ndim), *range(n))
            assert_close(hessian[i][j].transpose(axes), hessian[j][i])


@pytest.mark.parametrize("loss", [by_labels, *LINEAR])
@pytest.mark.parametrize(
    "options", [{}, {"ignore_index": 2, "smoothing": 0.1}, {"reduction": "sum"}]
)
def test_class_weights(loss, options):
    """As the twin, and as weights of the samples, with and without those."""
    v, u, y = jnp.array([1.0, 2.0, 0.5]), jnp.array([0.3, 0.7, 1.1]), jnp.array([0, 2, 1])

    def both(z, v, u):
        return loss(z, y, class_weights=v, weights=u, **options)

    def by_hand(z, v, u):
        return loss(z, y, weights=v[y] * u, **options)

    got = jax.value_and_grad(both, (0, 1, 2))(Z, v, u)
    assert_close(got, jax.value_and_grad(by_hand, (0, 1, 2))(Z, v, u))
    arrays = {"weights": np.asarray(u), "class_weights": np.asarray(v)}
    dz, _, du, dv = twin.cross_entropy_vjp(np.asarray(Z), np.asarray(y), 1.0, **arrays, **options)
    assert_close(got[1], tuple(map(jnp.asarray, (dz, dv, du))))
    one = jax.grad(lambda v: loss(Z, y, class_weights=v, **options))(v)
    assert_close(one, jax.grad(lambda v: loss(Z, y, weights=v[y], **options))(v))


@pytest.mark.parametrize("loss", [by_labels, by_distributions, *LINEAR])
def test_traced_numbers(loss):
    """A schedule: one program for all values of smoothing and z-loss; and no derivative of them."""

    def run(smoothing, z_loss):
        def f(z):
            return loss(z, Y, smoothing=smoothing, z_loss=z_loss)

        return jax.value_and_grad(f)(Z)

    compiled = jax.jit(run)
    for smoothing in (0.0, 0.25):
        assert_close(compiled(smoothing, 0.01), run(smoothing, 0.01))
    with pytest.raises(TypeError, match=r"cross_entropy: a derivative .* keyword-only"):
        jax.grad(lambda s: loss(Z, Y, smoothing=s))(0.25)


def test_traced_softcap():
    for loss in LINEAR:
        run = lambda cap, f=loss: jax.grad(f)(Z, Y, softcap=cap)  # noqa: E731
        assert_close(jax.jit(run)(1.5), run(1.5))


@pytest.mark.parametrize("mode", ["forward", "recompute"])
@pytest.mark.parametrize(("n", "d", "c"), [(3, 0, 3), (3, 2, 0), (0, 0, 3), (0, 0, 0)])
def test_empty_axes(n, d, c, mode):
    """No feature: all classes are alike. No class: no label is one."""
    x, w = jnp.ones((n, d)), jnp.ones((d, c))
    loss, grads = jax.value_and_grad(linear_cross_entropy, (0, 1))(
        x, w, jnp.zeros(n, int), mode=mode, smoothing=0.1, z_loss=0.1
    )
    want = (np.log(c) + 0.1 * np.log(c) ** 2 if c else np.nan) if n else 0
    np.testing.assert_allclose(loss, want, rtol=1e-12)
    assert [g.shape for g in grads] == [(n, d), (d, c)]
    assert by_labels(jnp.ones((0, c))) == 0
    assert softmax(jnp.ones((n, c))).shape == (n, c)
