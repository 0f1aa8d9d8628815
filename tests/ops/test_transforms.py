"""Every op under every transform of one device. The expectation is autodiff's own answer."""

import itertools

import jax
import jax.numpy as jnp
from jax import lax

import fnnet
from tests.cases import Call, each_case, each_case_with, each_op, each_op_with
from tests.compare import assert_close, dots, loss_of

TRANSFORMS = {
    "grad": lambda f, n: jax.grad(loss_of(f), n),
    "value_and_grad": lambda f, n: jax.value_and_grad(loss_of(f), n),
    "jit of grad": lambda f, n: jax.jit(jax.grad(loss_of(f), n)),
    "grad of jit": lambda f, n: jax.grad(jax.jit(loss_of(f)), n),
    "jacrev": lambda f, n: jax.jacrev(f, n),
    "hessian": lambda f, n: jax.hessian(loss_of(f), n),
    "jacrev of grad": lambda f, n: jax.jacrev(jax.grad(loss_of(f), n), n),
    "grad of grad": lambda f, n: jax.grad(_norm_of(jax.grad(loss_of(f), n)), n),
    "hessian-vector product": lambda f, n: _hvp(f, n),
    "checkpoint": lambda f, n: jax.grad(jax.checkpoint(loss_of(f)), n),
    "jit of checkpoint": lambda f, n: jax.jit(jax.grad(jax.checkpoint(loss_of(f)), n)),
    "scan, the arguments as constants": lambda f, n: jax.grad(_scan_constants(f), n),
    "scan, the arguments as xs": lambda f, n: jax.grad(_scan_xs(f), n),
    "scan, the arguments as carry": lambda f, n: jax.grad(_scan_carry(f), n),
    "checkpoint in scan": lambda f, n: jax.grad(_scan_constants(jax.checkpoint(f)), n),
    "cond": lambda f, n: jax.grad(_cond(f), n),
    "switch": lambda f, n: jax.jit(jax.grad(_switch(f), n)),
    "while, forward": lambda f, n: jax.jit(_while(f)),
    "fori, reverse": lambda f, n: jax.grad(_fori(f), n),
    "vjp of stop_gradient": lambda f, n: jax.grad(loss_of(lambda *a: f(*map(_half, a))), n),
    "no jit": lambda f, n: _disable_jit(jax.grad(loss_of(f), n)),
}

# what the others imply: by default asked of lin alone
FURTHER = (
    "value_and_grad",
    "jit of grad",
    "jacrev of grad",
    "hessian-vector product",
    "jit of checkpoint",
    "scan, the arguments as xs",
    "switch",
    "fori, reverse",
    "vjp of stop_gradient",
    "grad of jit",
    "cond",
    "checkpoint",
    "jacrev",
    "grad of grad",
    "scan, the arguments as constants",
    "while, forward",
    "grad",
    "no jit",
)
EAGER = ("grad", "grad of jit", "checkpoint", "no jit")


def _half(x):
    return x + lax.stop_gradient(x)


def _norm_of(f):
    return lambda *args: sum(jnp.sum(jnp.cos(leaf + 1)) for leaf in jax.tree.leaves(f(*args)))


def _hvp(f, n):
    def product(*args):
        # forward over reverse
        return jax.jvp(jax.grad(loss_of(f), n), args, tuple(map(jnp.cos, args)))

    return product


def _scan_constants(f):
    def loss(*args):
        def step(total, scale):
            return total + scale * loss_of(f)(*args), None

        return lax.scan(step, jnp.zeros(()), jnp.arange(1.0, 4.0))[0]

    return loss


def _scan_xs(f):
    def loss(*args):
        stacked = [jnp.stack([a, 2 * a]) for a in args]
        return lax.scan(lambda total, xs: (total + loss_of(f)(*xs), None), jnp.zeros(()), stacked)[
            0
        ]

    return loss


def _scan_carry(f):
    def loss(*args):
        def step(carry, _):
            value = loss_of(f)(*carry)
            return [a * jnp.cos(value) for a in carry], value

        return lax.scan(step, list(args), None, length=3)[1].sum()

    return loss


def _cond(f):
    return lambda *args: lax.cond(args[0].sum() > 0, loss_of(f), lambda *a: -loss_of(f)(*a), *args)


def _switch(f):
    branches = [lambda *a: a[0].sum(), loss_of(f), lambda *a: 2 * loss_of(f)(*a)]
    return lambda *args: lax.switch(1 + (args[0].sum() > 0).astype(int), branches, *args)


def _while(f):
    def loop(*args):
        def step(state):
            i, total = state
            return i + 1, total + loss_of(f)(*args)

        return lax.while_loop(lambda s: s[0] < 3, step, (0, jnp.zeros(())))

    return loop


def _fori(f):
    return lambda *args: lax.fori_loop(
        0, 3, lambda i, total: jnp.sin(total) + loss_of(f)(*args), jnp.zeros(())
    )


def _disable_jit(f):
    def run(*args):
        with jax.disable_jit():
            return f(*args)

    return run


def beside(gradient, case: Call, run=jax.jit):
    """``gradient(f, *args)`` of the op and of the plain form: one program, compiled once."""
    return run(lambda *args: [gradient(f, *args) for f in (case.op, case.plain)])


@each_op_with("transform", TRANSFORMS, long=FURTHER)
def test_transform(case: Call, transform, key):
    args = case.args(key)
    n = tuple(range(len(args)))
    make = TRANSFORMS[transform]
    # compiled around, as compiling one program is faster than dispatching its parts
    run = (lambda f: f) if transform in EAGER else jax.jit
    assert_close(*beside(lambda f, *args: make(f, n)(*args), case, run)(*args))


# what broadcasts is matmul's own affair
@each_case_with(
    "axes",
    ["outer", "all"],
    long=["all"],
    where=lambda case: not case.variant or case.op_name == "matmul",
)
def test_vmap_over_each_argument_and_axis(case: Call, axes, key):
    args = case.args(key)
    n = tuple(range(len(args)))

    def everywhere(f, *args):
        found = {}
        for number, arg in enumerate(args):
            # a negative axis is counted from the end before any rule sees it
            every = [*range(arg.ndim + 1), -1] if axes == "all" else [0] if number else [0, -1]
            for axis in every:
                batched = list(args)
                batched[number] = jnp.stack([arg, jnp.cos(arg), -arg], axis=axis)
                of = [axis if i == number else None for i in n]
                found[number, axis] = [
                    jax.vmap(f, of)(*batched),
                    jax.vmap(jax.grad(loss_of(f), n), of)(*batched),
                    jax.grad(_norm_of(jax.vmap(f, of)), n)(*batched),
                ]
        return found

    assert_close(*beside(everywhere, case)(*args))


@each_op()
def test_vmap_over_all_arguments_twice_and_out_axes(case: Call, key):
    args = [jnp.stack([jnp.stack([a, -a]), jnp.stack([2 * a, jnp.sin(a)])]) for a in case.args(key)]
    n = tuple(range(len(args)))

    def twice(f, *args):
        return (
            jax.vmap(jax.vmap(jax.grad(loss_of(f), n)), out_axes=-1)(*args),
            jax.vmap(jax.vmap(jax.hessian(loss_of(f), 0)))(*args),
        )

    assert_close(*beside(twice, case)(*args))


@each_case()
def test_every_choice_of_arguments_to_differentiate(case: Call, key):
    """Right cotangents for each choice; no more matrix products than autodiff, jitted or not."""
    args = case.args(key)
    # of many arguments: each, each pair, all
    counts = {1, 2, len(args)} if len(args) > 3 else range(1, len(args) + 1)
    choices = [n for c in sorted(counts) for n in itertools.combinations(range(len(args)), c)]
    for n in choices:
        hand, auto = (jax.grad(loss_of(f), n) for f in (case.op, case.plain))
        allowed = len(dots(auto, *args)) + case.recomputed
        assert len(dots(hand, *args)) <= allowed, n
        assert len(dots(jax.jit(hand), *args)) <= allowed, n

    def gradients(f, *args):
        return {n: jax.grad(loss_of(f), n)(*args) for n in choices}

    assert_close(*beside(gradients, case)(*args))


@each_op()
def test_one_compiled_function_differentiated_in_two_ways_at_once(case: Call, key):
    """JAX keeps one trace for both; each backward pass must find its own residuals."""
    args = case.args(key)
    shared = jax.jit(loss_of(case.op))
    pulls = [
        jax.vjp(lambda a, i=i: shared(*[a if i == j else b for j, b in enumerate(args)]), args[i])[
            1
        ]
        for i in range(len(args))
    ]
    want = jax.jit(jax.grad(loss_of(case.plain), tuple(range(len(args)))))(*args)
    one = jnp.ones(())
    for pull, ct in [*zip(pulls, want, strict=True)][::-1]:
        assert_close(pull(one)[0], ct)


@each_op_with(
    "where",
    ["around the forward", "around all", "none", "inside jit"],
    long=["around all", "none"],
)
def test_matmul_precision_as_autodiff(case: Call, where, key):
    """Every product of the backward pass has the precision set where the forward ran."""
    args = case.args(key, "float32")

    def precisions(f):
        if where == "none":
            out, vjp = jax.vjp(f, *args)
            with jax.default_matmul_precision("highest"):  # too late to matter
                return dots(vjp, out)
        if where == "around the forward":
            with jax.default_matmul_precision("highest"):
                out, vjp = jax.vjp(f, *args)
            return dots(vjp, out)

        def inside(*a):
            with jax.default_matmul_precision("highest"):
                return f(*a)

        run = jax.jit(inside) if where == "inside jit" else inside
        return dots(jax.grad(loss_of(run), tuple(range(len(args)))), *args)

    hand, auto = precisions(case.op), precisions(case.plain)
    assert set(hand) <= set(auto)
    assert len(hand) <= len(auto) + case.recomputed
    if hand and where != "none":
        assert "HIGHEST" in str(hand)


def test_precision_argument_reaches_every_product(key):
    x, w = jax.random.normal(key, (3, 4), "float32"), jnp.ones((4, 5), "float32")
    for op in (fnnet.lin, fnnet.matmul):
        for precision in ("highest", lax.Precision.HIGHEST, ("highest", "highest")):

            def loss(x, w, op=op, precision=precision):
                return op(x, w, precision=precision).sum()

            found = dots(jax.grad(loss, (0, 1)), x, w)
            assert len(found) == 3
            assert all("HIGHEST" in p and "DEFAULT" not in p for p in found)


@each_op()
def test_forward_mode_through_plain(case: Call, key):
    def forward(f, *args):
        f = fnnet.plain(f) if f is case.op else f
        return jax.jvp(f, args, args), jax.jacfwd(f)(*args)

    assert_close(*beside(forward, case)(*case.args(key)))
