"""--mesh: the same losses on eight devices as on one, and a line for each wrong size."""

import re

import char_lm
import data
import jax
import jax.numpy as jnp
import mnist
import numpy as np
import placement
import pytest
from outcomes import UserError

from tests.marks import first_of, thorough

from .programs import lines


@pytest.fixture(autouse=True)
def _numerics_of_users(monkeypatch):
    """Those of a script: float32, and JAX's own promotion of dtypes and ranks."""
    monkeypatch.setattr(mnist.gradients, "compare", lambda *_, **__: [])
    monkeypatch.setattr(mnist.gradients, "compare_losses", lambda *_, **__: [])
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


# what is told of the leaves; whether 2 divides the alphabet depends on the version of Python
RUNS = {
    "mlp": (mnist, "--data digits --hidden 16 --steps 40 --lr 0.01", "data=4,model=2", "4 of 4"),
    "mlp whole": (mnist, "--data digits --hidden 16 --steps 40", "model=4,data=2", "2 of 4"),
    "cnn": (mnist, "--data digits --model cnn --smoke --steps 8", "data=2,model=4", "4 of 6"),
    "transformer": (char_lm, "--smoke --reports 2", "data=4,model=2", " of 12"),
    "gru": (char_lm, "--smoke --model gru --reports 2", "data=4,model=2", " of 8"),
}


@pytest.mark.parametrize("which", first_of(RUNS))
def test_the_losses_of_one_device(which, tmp_path, capsys):
    script, flags, mesh, sharded = RUNS[which]
    for name, more in (("one", []), ("many", ["--mesh", mesh])):
        assert script.main([*flags.split(), *more, "--workdir", str(tmp_path / name)]) == 0
    out = " ".join(capsys.readouterr().out.split())  # lines end where the terminal does
    assert f"{sharded} leaves in " in out
    if which == "mlp whole":
        assert "whole: 1.w, 1.b" in out
    one, many = lines(tmp_path / "one"), lines(tmp_path / "many")
    assert len(one) == len(many) >= 2 - (which == "cnn")
    for a, b in zip(one, many, strict=True):
        for key, value in a.items():
            if key == "test_accuracy":  # a tie may fall either way
                assert abs(b[key] - value) < 0.01
            elif key != "kind":
                np.testing.assert_allclose(b[key], value, rtol=1e-4)


def test_what_lies_where():
    p = placement.Placement({"data": 4, "model": 2}, 8)
    w, b, odd = p.put((np.ones((6, 4)), np.ones(4), np.ones((4, 3))))
    assert {s.data.shape for s in w.addressable_shards} == {(6, 2)}
    assert {s.data.shape for s in b.addressable_shards} == {(2,)}
    assert {s.data.shape for s in odd.addressable_shards} == {(4, 3)}
    seen = []

    def step(state, x, y):
        jax.debug.inspect_array_sharding(x, callback=seen.append)
        return state + jnp.sum(x) * y.size, jnp.sum(state)

    state, value = jax.jit(p.step(step))(w, np.ones((8, 3), np.float32), np.ones(8, np.float32))
    assert {s.data.shape for s in state.addressable_shards} == {(6, 2)}
    assert value.sharding.is_fully_replicated
    assert seen[0].shard_shape((8, 3)) == (2, 3)
    np.testing.assert_array_equal(placement.gather(w), np.ones((6, 4)))


@thorough
def test_a_run_may_go_on_elsewhere(tmp_path, capsys):
    """A checkpoint says nothing of devices: made on eight, resumed on one."""
    flags = "--data digits --hidden 16 --smoke --batch-size 32"
    one = ["--workdir", str(tmp_path / "one")]
    assert mnist.main([*flags.split(), *one]) == 0
    many = ["--workdir", str(tmp_path / "many")]
    assert mnist.main([*flags.split(), *many, "--mesh", "data=8", "--save-every", "1"]) == 0
    newest = tmp_path / "many/checkpoints/32"
    newest.rename(tmp_path / "taken away")
    assert mnist.main([*flags.split(), *many, "--resume"]) == 0
    assert "after step 16 of 32" in capsys.readouterr().out
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "many"), strict=True):
        np.testing.assert_allclose(a["test_loss"], b["test_loss"], rtol=1e-4)


WRONG = {
    "data=3": "--mesh data=3,model=1 is of 3 devices, and JAX has 8: want .* as in data=8; on a "
    "CPU, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N devices",
    "data=8,model=2": "--mesh data=8,model=2 is of 16 devices, and JAX has 8",
    "data=4": "--mesh data=4,model=1 is of 4 devices, and JAX has 8",
    "data=0,model=8": "the size of data is '0'; want a whole number, 1 or more",
    "data": "the size of data is ''",
    "data=-8": "the size of data is '-8'",
    "data=2.5": "the size of data is '2.5'",
    "data=4,rows=2": "'rows' is no axis; want data and model, as in data=4,model=2",
    "data=4,data=2": "names data twice",
    "": "'' is no axis",
    "data=8 --batch-size 20": "--batch-size 20 cannot be cut into the data=8 equal parts of the "
    "mesh: want a multiple, such as --batch-size 24",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_sizes(wrong, tmp_path, capsys):
    sizes, *more = wrong.split() or [""]
    args = ["--mesh", sizes, *more, "--data", "digits", "--workdir", str(tmp_path / "new")]
    try:
        code = mnist.main(args)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("mnist.py: error: ")
    assert error.count("\n") == 1
    assert re.search(WRONG[wrong], error), error
    assert not (tmp_path / "new").exists()


def test_one_device_by_default():
    p = placement.Placement(None, 7)
    assert p.mesh.size == 1
    assert p.put_whole(data.one_hot(np.arange(3))).devices() == {jax.devices()[0]}
    with pytest.raises(UserError, match="cannot be cut"):
        placement.Placement({"data": 8, "model": 1}, 7)
