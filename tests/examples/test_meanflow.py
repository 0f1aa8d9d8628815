"""MeanFlow's example: its loss has autodiff's gradient, and it draws."""

import re

import jax
import jax.numpy as jnp
import meanflow
from matplotlib.image import imread

from fnnet import plain
from tests.compare import assert_close
from tests.marks import thorough

from .programs import ended, program


def test_the_gradient_is_autodiffs(monkeypatch):
    key = jax.random.key(0)
    params = jax.tree.map(lambda p: p.astype("float64"), meanflow.new_params(key, 16, blocks=1))
    x, labels = jax.random.normal(key, (5, 8, 8)), jnp.arange(5)

    def gradient():
        with jax.numpy_rank_promotion("allow"):  # as a script has it
            f = jax.value_and_grad(lambda *a: meanflow.loss(*a), has_aux=True)
            return jax.jit(f)(params, key, x, labels)

    by_hand = gradient()
    for op in ("attention", "fold", "glu_mlp", "layer_norm", "lin", "unfold"):
        monkeypatch.setattr(meanflow, op, plain(getattr(meanflow, op)))
    assert_close(by_hand, gradient(), 1e-10)


@thorough
def test_it_trains_and_draws(tmp_path):
    out, error = ended(program("meanflow.py", "--steps", "40", "--out", "d.png", cwd=tmp_path))
    assert not error
    first, *_, last = (float(e) for e in re.findall(r"error +([\d.]+)", out))
    assert last > 0
    assert first > 0
    assert "reads" in out
    assert imread(tmp_path / "d.png").shape[:2] == (10 * 8 * 4, 16 * 8 * 4)
