"""Forward mode of every op, alone and with reverse mode. The expectation is autodiff's own answer.

Several cells go into one program, as compiling is what takes long.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnnet
from tests.cases import Call, each_op, each_op_with
from tests.compare import assert_close, loss_of
from tests.ops.test_meshes import BATCHED, explicit, has_layouts, place
from tests.ops.test_transforms import beside


def _all(args):
    return tuple(range(len(args)))


def _tangents(args):
    return tuple(jnp.cos(3 * a) for a in args)


def _pushed(f, args):
    return jax.jvp(f, args, _tangents(args))


def _linear(f, args):
    return jax.linearize(f, *args)[1]


def _transposed(f, args):
    return jax.linear_transpose(_linear(f, args), *args)(jnp.cos(f(*args)))


def _vmap_of_jvp(f, args, axis):
    stacked = [jnp.stack([t, -t, 2 * t], axis % (t.ndim + 1)) for t in _tangents(args)]
    axes = [axis % (t.ndim + 1) for t in args]
    of_tangents = jax.vmap(lambda *t: jax.jvp(f, args, t)[1], axes)(*stacked)
    of_both = jax.vmap(lambda *t: jax.jvp(f, t, t), axes)(*stacked)
    return of_tangents, of_both


def _while(f):
    def loop(*args):
        def step(state):
            i, *rest = state
            value = f(*rest)
            return i + 1, *(a * jnp.cos(value) for a in rest)

        return lax.while_loop(lambda s: s[0] < 2, step, (0, *args))[1:]

    return loop


def _scan(f):
    def loss(*args):
        def step(carry, scale):
            value = f(*carry) * scale
            return tuple(a * jnp.cos(value) for a in carry), value

        return lax.scan(step, args, jnp.arange(1.0, 3.0))[1].sum()

    return loss


def _cond(f):
    return lambda *args: lax.cond(args[0].sum() > -1e9, f, lambda *a: -f(*a), *args)


def _saved(f):
    return jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable)


def _dotted(cts, tangents):
    return sum(jnp.sum(a * b) for a, b in zip(cts, tangents, strict=True))


# of the function f, of its loss, and of the arguments
FIRST = {
    "jvp": lambda f, loss, args: _pushed(f, args),
    "jvp by each argument": lambda f, loss, args: [
        jax.jvp(lambda a, i=i: f(*args[:i], a, *args[i + 1 :]), (args[i],), (args[i] + 1,))
        for i in _all(args)
    ],
    "jacfwd": lambda f, loss, args: jax.jacfwd(loss, _all(args))(*args),
    "linearize": lambda f, loss, args: _linear(f, args)(*_tangents(args)),
    "linear_transpose of linearize": lambda f, loss, args: _transposed(f, args),
    "vmap of jvp": lambda f, loss, args: _vmap_of_jvp(f, args, 0),
    "vmap of jvp, last axis": lambda f, loss, args: _vmap_of_jvp(f, args, -1),
    "scan": lambda f, loss, args: _pushed(_scan(loss), args),
    "while": lambda f, loss, args: _pushed(_while(loss), args),
    "cond": lambda f, loss, args: _pushed(_cond(loss), args),
    "checkpoint": lambda f, loss, args: _pushed(jax.checkpoint(loss), args),
    "linearize of checkpoint": lambda f, loss, args: _linear(_saved(loss), args)(*_tangents(args)),
    "nested jit": lambda f, loss, args: _pushed(jax.jit(jax.jit(loss)), args),
}
SECOND = {
    "jvp of grad": lambda f, loss, args: _pushed(jax.grad(loss, _all(args)), args),
    "grad of jvp": lambda f, loss, args: jax.grad(
        lambda *a: jax.jvp(loss, a, _tangents(args))[1], _all(args)
    )(*args),
    "grad of jvp, value and tangent": lambda f, loss, args: jax.grad(
        lambda *a: sum(_pushed(loss, a)), _all(args)
    )(*args),
    "jvp of jvp": lambda f, loss, args: jax.jvp(lambda *a: _pushed(loss, a), args, _tangents(args)),
    "grad of grad": lambda f, loss, args: jax.grad(
        lambda *a: _dotted(jax.grad(loss, _all(args))(*a), _tangents(args)), _all(args)
    )(*args),
    "hessian": lambda f, loss, args: jax.hessian(loss)(*args),
    "jacrev of jacfwd": lambda f, loss, args: jax.jacrev(jax.jacfwd(loss))(*args),
    "jvp of grad of checkpoint": lambda f, loss, args: _pushed(jax.grad(_saved(loss)), args),
    "grad of jvp of scan": lambda f, loss, args: jax.grad(
        lambda *a: _pushed(_scan(loss), a)[1], _all(args)
    )(*args),
}


@each_op_with("cells", ["first", "second"], long=["second"])
def test_forward(case: Call, cells, key):
    args = tuple(case.args(key))

    def every(f, *args):
        rows = FIRST if cells == "first" else SECOND
        return {name: make(f, loss_of(f), args) for name, make in rows.items()}

    # of a norm of what is moved evenly terms of size 1 cancel; loops of cosines of sums make more
    # of a rounding
    assert_close(*beside(every, case)(*args), 1e-10, least=1.0)


@each_op()
def test_eagerly(case: Call, key):
    args = tuple(case.args(key))
    assert_close(_pushed(case.op, args), _pushed(case.plain, args))
    got = _linear(case.op, args)(*_tangents(args))
    assert_close(got, _pushed(case.plain, args)[1])


@each_op(**BATCHED, long=True)
def test_shard_map(case: Call, key):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    args = tuple(case.args(key))
    specs = tuple(P() if axis is None else P(*[None] * axis, "d") for axis in case.batch)

    def pushed(f):
        def total(*args):
            return lax.psum(loss_of(f)(*args), "d")

        mapped = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=P())
        return jax.jit(lambda *a: (_pushed(mapped, a), _linear(mapped, a)(*a)))(*args)

    assert_close(pushed(case.op), pushed(case.plain))


@each_op(where=has_layouts, long=True)
def test_explicit_mesh(case: Call, key):
    mesh, _, args, _ = explicit(case, key)
    for layout in case.layouts:
        placed = tuple(place(args, mesh, layout))
        with jax.set_mesh(mesh):
            hand, auto = (
                jax.jit(lambda *a, f=f: _pushed(f, a))(*placed) for f in (case.op, case.plain)
            )
        assert_close(jax.device_get(hand), jax.device_get(auto))


LINEAR = {
    "matmul": (lambda x: fnnet.matmul(np.ones((2, 3)), x), (3, 4)),
    "matmul, the first": (lambda x: fnnet.matmul(x, np.ones((3, 2))), (4, 3)),
    "lin": (lambda x: fnnet.lin(x, jnp.arange(6.0).reshape(3, 2)), (4, 3)),
    "lin, the weights": (lambda w: fnnet.lin(jnp.arange(6.0).reshape(2, 3), w), (3, 4)),
    "unfold": (lambda x: fnnet.unfold(x, 2), (1, 4, 4, 2)),
    "fold": (lambda p: fnnet.fold(p, (1, 4, 4, 2), 2), (1, 3, 3, 8)),
    "conv2d": (lambda x: fnnet.conv2d(x, jnp.ones((3, 3, 2, 3))), (1, 4, 4, 2)),
    "conv2d, the weights": (lambda w: fnnet.conv2d(jnp.ones((1, 4, 4, 2)), w), (3, 3, 2, 3)),
    "avg_pool": (lambda x: fnnet.avg_pool(x, 2), (1, 4, 4, 2)),
    "rope": (lambda x: fnnet.rope(x, np.arange(3)), (3, 2, 4)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_transpose(name, key):
    """The transpose of a linear function is the transpose of its Jacobian."""
    f, shape = LINEAR[name]
    x = jax.random.normal(key, shape)
    g = jnp.cos(jnp.arange(f(x).size, dtype=x.dtype)).reshape(f(x).shape)
    for run in (lambda f: f, jax.jit):
        (got,) = run(jax.linear_transpose(f, x))(g)
        assert_close(got, jax.vjp(fnnet.plain(f), x)[1](g)[0])


def test_solvers():
    a = jnp.array([[3.0, 1.0], [1.0, 2.0]])
    b = jnp.array([1.0, 2.0])

    def solve(a, b):
        return jax.scipy.sparse.linalg.bicgstab(lambda x: fnnet.matmul(a, x), b)[0]

    assert_close(solve(a, b), jnp.linalg.solve(a, b), 1e-9)
    got, want = (jax.jacobian(f, (0, 1))(a, b) for f in (solve, jnp.linalg.solve))
    assert_close(got, want, 1e-9)

    def custom(a, b):
        def solver(matvec, b):
            return jnp.linalg.solve(a, b)

        return lax.custom_linear_solve(lambda x: fnnet.matmul(a, x), b, solver, solver)

    assert_close(jax.jacobian(custom)(a, b), jax.jacobian(jnp.linalg.solve)(a, b), 1e-9)


def test_transpose_of_what_is_not_linear():
    with pytest.raises(NotImplementedError, match=r"relu: its transpose .* linear"):
        jax.linear_transpose(fnnet.relu, jnp.ones(3))(jnp.ones(3))
