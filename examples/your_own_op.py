"""An op of your own: derived, registered, checked, proved, and trained with.

    loss = (1/n) Σ_i log cosh r_i,  r = pred - targ      squared where r is small, |r| where large
    d log cosh r / dr = sinh r / cosh r = tanh r, so with g = ∂L/∂loss
    dpred_i = g tanh(r_i) / n                            dtarg_i = -dpred_i

It needs ``pip install -e ".[examples,symbolic]"``, and takes seconds.
"""

import jax
import jax.numpy as jnp
import optax

from fnnet import lin, mse, register
from fnnet.check import check_vjp
from fnnet.proof.symbolic import Instance, Sym, prove
from fnnet.proof.twin.elementary import exp, log, tanh


def log_cosh(pred, targ):
    r = pred - targ
    return jnp.mean(jnp.logaddexp(r, -r) - jnp.log(2.0))  # cosh itself would overflow


def fwd(pred, targ):  # the output, and what the backward pass needs
    return log_cosh(pred, targ), pred - targ


def bwd(r, g):  # that, and the output's cotangent: to one cotangent for each argument
    dpred = g * jnp.tanh(r) / r.size
    return dpred, -dpred


def in_numpy(pred, targ):  # forward and backward once more, for numbers and for symbols
    return log((exp(pred - targ) + exp(targ - pred)) / 2).mean()


def in_numpy_vjp(pred, targ, g):
    dpred = g * tanh(pred - targ) / pred.size
    return dpred, -dpred


robust = register(log_cosh, fwd, bwd)
k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
x, noise = jax.random.normal(k1, (500, 1)), jax.random.normal(k2, (500, 1))
y = 3 * x + 1 + 0.1 * noise + 30 * (jax.random.uniform(k3, (500, 1)) < 0.1)  # a tenth is far off

print(check_vjp(robust, (x, noise)))  # in a test: assert_vjp, which fails with this table
example = Instance({"pred": Sym(3), "targ": Sym(3)})
print(prove("log_cosh", forward=in_numpy, vjp=in_numpy_vjp, cases=[example]))
for loss in (mse, robust):
    params, adam = (jnp.ones((1, 1)), jnp.zeros(1)), optax.adam(0.05)
    state, grad = adam.init(params), jax.jit(jax.grad(lambda p: loss(lin(x, *p), y)))  # noqa: B023
    for _ in range(500):
        updates, state = adam.update(grad(params), state)
        params = optax.apply_updates(params, updates)
    w, b = (float(p.squeeze()) for p in params)
    print(f"{loss.__name__:<9} finds y = {w:.2f} x + {b:.2f}; most points have y = 3 x + 1")
