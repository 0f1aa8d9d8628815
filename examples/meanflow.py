"""MeanFlow: a net that draws a digit in one step, trained with `jax.jvp` inside `jax.grad`.

Noise e turns into an image x along a straight line, z_t = (1 - t) x + t e, whose velocity is
v = e - x. The net u(z, r, t) is to tell the mean velocity between the times r and t,

    (t - r) u(z_t, r, t) = ∫_r^t v dτ

so that x = e - u(e, 0, 1) is one step. Differentiated by t, along the path (d/dt z_t = v), this is

    u = v - (t - r) du/dt        du/dt = v ∂u/∂z + ∂u/∂t

and du/dt is one forward-mode derivative, of a net that has attention in it. The loss is the
squared distance of u from the right hand side, which is held fixed.

It needs ``pip install -e ".[examples]"``, and takes two to three minutes on two cores.

Z. Geng et al., Mean flows for one-step generative modeling, arXiv:2505.13447.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.image import imsave
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fnnet import attention, fold, glu_mlp, init, layer_norm, lin, unfold

PATCH, HEADS, CLASSES = 2, 4, 10
K = 8 // PATCH  # patches beside each other; each is one position for attention
TOKENS = K * K


def new_params(key, d, blocks):
    keys = iter(jax.random.split(key, 8 * blocks + 8))
    draw = lambda *shape: init.lecun_normal(next(keys), shape)  # noqa: E731
    block = lambda: {  # noqa: E731
        "shift": draw(d, 4 * d) / 10,  # scale and shift of the two norms, from time and class
        "qkv": draw(d, 3 * d),
        "out": draw(d, d),
        "mlp": (draw(d, 2 * d), draw(d, 2 * d), draw(2 * d, d)),
    }
    return {
        "patch": (draw(PATCH**2, d), jnp.zeros(d)),
        "place": draw(TOKENS, d),
        "class": draw(CLASSES, d),
        "time": (draw(32, d), jnp.zeros(d)),
        "blocks": [block() for _ in range(blocks)],
        "last": (draw(d, PATCH**2) / 10, jnp.zeros(PATCH**2)),
    }


def velocity(params, z, r, t, labels):
    """u: images (n, 8, 8), times (n,) and (n,), classes (n,) -> (n, 8, 8)."""
    waves = jnp.exp2(jnp.arange(-1.0, 7.0))
    angles = jnp.concatenate([t[:, None] * waves, (t - r)[:, None] * waves], -1)
    seen = lin(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1), *params["time"])
    seen = jax.nn.silu(seen + params["class"][labels])
    x = lin(unfold(z[..., None], PATCH, stride=PATCH).reshape(len(z), TOKENS, -1), *params["patch"])
    x = x + params["place"]
    for block in params["blocks"]:
        parts = jnp.split(lin(seen, block["shift"])[:, None], 4, -1)
        y = layer_norm(x) * (1 + parts[0]) + parts[1]
        heads = lambda a: a.reshape(*a.shape[:2], HEADS, -1)  # noqa: E731
        q, k, v = map(heads, jnp.split(lin(y, block["qkv"]), 3, -1))
        x = x + lin(attention(q, k, v).reshape(x.shape), block["out"])
        x = x + glu_mlp(layer_norm(x) * (1 + parts[2]) + parts[3], *block["mlp"])
    pixels = lin(layer_norm(x), *params["last"]).reshape(len(z), K, K, -1)
    return fold(pixels, (*z.shape, 1), PATCH, stride=PATCH)[..., 0]


def loss(params, key, x, labels):
    k1, k2, k3 = jax.random.split(key, 3)
    e = jax.random.normal(k1, x.shape)
    times = jax.nn.sigmoid(jax.random.normal(k2, (2, len(x))) - 0.4)
    t, r = times.max(0), times.min(0)
    r = jnp.where(jax.random.uniform(k3, r.shape) < 0.5, t, r)  # half: velocity at one time
    at = lambda a: a[:, None, None]  # noqa: E731
    z, v = (1 - at(t)) * x + at(t) * e, e - x
    u, du = jax.jvp(
        lambda z, r, t: velocity(params, z, r, t, labels),
        (z, r, t),
        (v, jnp.zeros_like(r), jnp.ones_like(t)),
    )
    wanted = jax.lax.stop_gradient(v - at(t - r) * du)
    error = jnp.sum((u - wanted) ** 2, (1, 2))
    return jnp.mean(error / jax.lax.stop_gradient(error + 0.01)), jnp.mean(error)


def draw_digits(params, key, labels):
    """One step from noise."""
    e, one = jax.random.normal(key, (len(labels), 8, 8)), jnp.ones(len(labels))
    return e - velocity(params, e, 0 * one, one, labels)


def main(argv=None):
    parser = argparse.ArgumentParser(description="One-step generation of digits, by MeanFlow.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", default="meanflow.png", help="the picture to write")
    options = parser.parse_args(argv)
    digits = load_digits()
    x, labels = jnp.asarray(digits.images / 8 - 1, jnp.float32), jnp.asarray(digits.target)
    params = new_params(jax.random.key(0), 64, blocks=3)
    adam = optax.adam(optax.cosine_decay_schedule(2e-3, options.steps))

    @jax.jit
    def step(params, mean, state, n):
        k1, k2 = jax.random.split(jax.random.fold_in(jax.random.key(1), n))
        at = jax.random.randint(k1, (128,), 0, len(x))
        (_, error), grads = jax.value_and_grad(loss, has_aux=True)(params, k2, x[at], labels[at])
        updates, state = adam.update(grads, state)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, mean, 0.01), state, error

    start, mean, state = time.perf_counter(), params, adam.init(params)
    for n in range(options.steps):
        params, mean, state, error = step(params, mean, state, n)
        if n % max(1, options.steps // 10) == 0 or n == options.steps - 1:
            print(f"step {n:5d}   error {error:6.2f}   {time.perf_counter() - start:5.1f} s")
    asked = np.repeat(np.arange(CLASSES), 16)
    drawn = np.asarray(jax.jit(draw_digits)(mean, jax.random.key(2), asked))
    judge = LogisticRegression(max_iter=2000).fit(x.reshape(len(x), -1), labels)
    right = np.mean(judge.predict(drawn.reshape(len(drawn), -1)) == asked)
    print(f"a classifier of real digits reads {right:.0%} of the drawn ones as they were meant")
    rows = drawn.reshape(CLASSES, 16, 8, 8).swapaxes(1, 2).reshape(CLASSES * 8, 16 * 8)
    imsave(options.out, np.kron(rows.clip(-1, 1), np.ones((4, 4))), cmap="gray_r")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
