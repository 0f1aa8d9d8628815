"""The largest batch that fits, and `python -m fnnet bench --target`."""

import json

import jax
import jax.numpy as jnp
import pytest

from fnnet.__main__ import main as fnnet_main
from fnnet.measure import bench_target, block, fits
from fnnet.measure.bench_target import axes_of
from fnnet.measure.chips import devices_of, target_of
from fnnet.measure.fits import Fit, bytes_in, largest_batch


def test_bytes_of_words():
    assert [bytes_in(t) for t in ("16GB", "80 GiB", "1.5kB", "7b", 9)] == [
        16 * 10**9, 80 * 2**30, 1500, 7, 9,
    ]  # fmt: skip
    for bad in ("", "GB", "16XB", "-1GB", "0GB", True, 0, None):
        with pytest.raises(ValueError, match="is no amount of memory: write 16GB"):
            bytes_in(bad)


@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("limit", [50, 100, 1600, 6399, 6400])
def test_the_largest_batch(monkeypatch, limit, multiple):
    """Of programs that need 100 bytes an example and device, and are refused beyond 5000."""
    tried = []

    def needed(f, args, target, mesh, in_shardings):
        tried.append(args[0])
        each = 100 * args[0] // multiple
        return each if each <= 5000 else None

    monkeypatch.setattr(fits, "_needed", needed)
    found = largest_batch(
        jnp.sin, lambda n: [n], target="v5e", memory=limit, multiple=multiple, most=2**10
    )
    fit = min(limit, 5000) // 100
    more = 100 * (fit + 1) if fit < 50 else None
    assert found == Fit(fit * multiple, limit, 100 * fit or None, more, len(tried))
    assert len(tried) <= 14
    assert all(n % multiple == 0 for n in tried)


def test_what_is_refused_for_want_of_memory_does_not_fit(monkeypatch):
    def refuses(*args, **kwargs):
        raise RuntimeError(words)

    monkeypatch.setattr(fits, "compile_for", refuses)
    words = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"
    found = largest_batch(jnp.sin, lambda n: [n], target="v5e", memory="1GB")
    assert (found.batch, found.needed, found.more) == (0, None, None)
    words = "another mistake"
    with pytest.raises(RuntimeError, match="another mistake"):
        largest_batch(jnp.sin, lambda n: [n], target="v5e", memory="1GB")


def test_how_the_block_is_cut():
    cut = [axes_of(target_of(t)) for t in ("v5e:1x1", "v5e:4x8", "h100", "h100:4", "h100:32")]
    assert [tuple(c.values()) for c in cut] == [(1, 1), (4, 8), (1, 1), (1, 4), (4, 8)]
    assert {axis for spec in jax.tree.leaves(block.SPECS) for axis in spec} == {"model", None}


SMALL = block.Sizes(time=8, width=16, heads=2, hidden=12)


def test_the_block_trains():
    shapes = block.shapes(4, SMALL, "float32")
    keys = iter(jax.random.split(jax.random.key(0), 16))
    params, x, y = jax.tree.map(
        lambda s: 0.3 * jax.random.normal(next(keys), s.shape, s.dtype), shapes
    )
    step = jax.jit(block.step(block.loss(SMALL.heads)))
    losses = []
    for _ in range(3):
        params, loss = step(params, x, y)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "v5f"], "no chip is known by the name 'v5f'"),
        (["--target", "h100", "--fits", "much"], "'much' is no amount of memory"),
        (["--target", "h100", "--op", "epoch"], "--target tells no time"),
        (["--target", "h100", "--plot", "a.png"], "--target tells no time"),
        (["--fits", "16GB"], "name a --target"),
        (["--op", "block"], "name a --target"),
        (["--target", "h100", "--op", "lim"], "did you mean lin?"),
    ],
)
def test_words_that_mean_nothing(words, said, capsys):
    try:
        code = fnnet_main(["bench", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_without_a_compiler(monkeypatch, capsys):
    devices_of.cache_clear()  # of tests that had one
    monkeypatch.setattr("fnnet.measure.chips.importlib.util.find_spec", lambda name: None)
    assert fnnet_main(["bench", "--target", "a100:2", "--op", "relu"]) == 2
    assert "pip install 'fnnet[targets-cuda]'" in capsys.readouterr().err


def test_a_batch_that_fits_a_chip():
    """Each example is a mebibyte, as is what is returned of it, and so is the program."""
    pytest.importorskip("libtpu", reason="needs the target's compiler")
    with jax.enable_x64(False):
        found = largest_batch(
            lambda x: x * 2,
            lambda n: [jax.ShapeDtypeStruct((n, 256, 1024), "float32")],
            target="tpu v5e:1x1",
            memory="13MiB",
        )
    assert found.batch == 5
    assert found.needed < found.limit < found.more


@pytest.mark.parametrize(
    ("target", "package"), [("tpu v5e:2x2", "libtpu"), ("h100:2", "jax_plugins.xla_cuda13")]
)
def test_what_chips_need(target, package, capsys):
    pytest.importorskip(package, reason="needs the target's compiler")
    with jax.enable_x64(False):
        found = bench_target.run(["relu", "block"], target, quick=True, sizes=SMALL)
    told = capsys.readouterr().out
    (relu,) = found["rows"]
    assert all(relu.scratch(way) < 100 for way in bench_target.WAYS)
    by_hand = found["block"].ways["hand"]
    assert {axis for c in by_hand.collectives for axis in c.axes} <= {"data", "model"}
    assert json.loads(json.dumps(bench_target.to_dict(found)))["target"] == target
    for words in ("relu", "scratch", "all-reduce over model"):
        assert words in told
