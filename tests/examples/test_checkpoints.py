"""Checkpoints: what is written is read, the last few are kept, and no damage passes unseen."""

import os
import shutil
import subprocess
import sys

import checkpoints
import numpy as np
import pytest

from .conftest import EXAMPLES

RNG = np.random.default_rng(0)
ARRAYS = {
    "params.0.w": RNG.standard_normal((30, 20)).astype(np.float32),
    "params.0.b": np.array([0.0, -0.0, np.inf], np.float32),
    "opt_state.0.count": np.array(7, np.int32),
    "key": np.array([1, 2**32 - 1], np.uint32),
}
META = {"results": [{"loss": 0.1 + 0.2}], "steps": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "made"
    writer = checkpoints.Writer(path, keep=2)
    for step in (10, 20, 30):
        writer.save(step, {**ARRAYS, "opt_state.0.count": np.array(step, np.int32)}, META)
    writer.close()
    return path


def test_the_last_are_kept(folder):
    assert checkpoints.steps(folder) == [20, 30]
    assert checkpoints.steps(folder / "none") == []


def test_what_is_written_is_read(folder):
    found, damaged = checkpoints.find(folder)
    assert damaged == []
    assert found.step == 30
    assert found.meta == META
    assert set(found.arrays) == {*ARRAYS, "step"}
    for name, a in ARRAYS.items():
        got = found.arrays[name]
        assert (got.dtype, got.shape) == (a.dtype, a.shape)
        if name != "opt_state.0.count":
            assert got.tobytes() == a.tobytes()


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def noise(path):
    path.write_bytes(np.random.default_rng(1).bytes(path.stat().st_size))


DAMAGES = [half, flip, noise, lambda path: path.unlink(), lambda path: path.write_bytes(b"")]


def check_damage(folder, tmp_path, *, sealed):
    """Each file of the newest damaged in each way; the names of those that did no harm."""
    harmless = set()
    for file in sorted(p.relative_to(folder) for p in (folder / "30").rglob("*") if p.is_file()):
        if not (folder / file).stat().st_size or (not sealed and file.name == checkpoints.SEAL):
            continue
        for damage in DAMAGES:
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            if not sealed:
                (copy / "30" / checkpoints.SEAL).unlink()
            damage(copy / file)
            found, damaged = checkpoints.find(copy)
            shutil.rmtree(copy)
            if damaged:
                assert found.step == 20
                ((step, why),) = damaged
                assert step == 30
                assert "\n" not in why
            else:
                harmless.add(file.name)
            same = {**ARRAYS, "opt_state.0.count": np.array(found.step, np.int32)}
            assert all(found.arrays[name].tobytes() == a.tobytes() for name, a in same.items())
            assert found.meta == META
    return harmless


def test_damage_to_any_file(folder, tmp_path, capfd):
    """The one before is used, unless the list of digests alone is gone."""
    assert check_damage(folder, tmp_path, sealed=True) == {checkpoints.SEAL}
    assert capfd.readouterr() == ("", "")


def test_damage_where_a_kill_came_before_the_digests(folder, tmp_path):
    """Files that orbax does not read are not missed; no other bits than those saved are read.

    In a process of its own: orbax's threads report such damage at length.
    """
    code = """if True:
        import sys, pathlib
        from tests.examples import conftest, test_checkpoints
        a, b = map(pathlib.Path, sys.argv[1:])
        print(*sorted(test_checkpoints.check_damage(a, b, sealed=False)))"""
    root = EXAMPLES.parent
    out = subprocess.check_output(
        [sys.executable, "-c", code, str(folder), str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    assert "metadata" not in out.split()
    assert "_METADATA" not in out.split()


def test_a_value_changed_behind_the_formats_back(folder, tmp_path):
    """Files whole, digests right, and yet not what was saved: the digest of the contents."""
    writer = checkpoints.Writer(tmp_path, keep=2)
    writer.save(1, ARRAYS, META)
    writer.close()
    meta = tmp_path / "1/meta/metadata"
    meta.write_text(meta.read_text(encoding="utf-8").replace("40", "41"))
    checkpoints._seal(tmp_path / "1")
    found, damaged = checkpoints.find(tmp_path)
    assert found is None
    assert damaged == [(1, "its contents are not those that were saved")]


def test_a_folder_renamed_to_another_step(folder, tmp_path):
    shutil.copytree(folder / "30", tmp_path / "90")
    assert checkpoints.find(tmp_path).damaged == [(90, "it is of step 30")]


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch, capfd):
    writer = checkpoints.Writer(tmp_path, keep=2)
    writer.save(10, ARRAYS, META)
    room = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    with pytest.raises(OSError, match="No space left on device") as e:
        writer.save(20, ARRAYS, META)
    assert e.value.filename == str(tmp_path / "20")
    writer.close()
    assert checkpoints.find(tmp_path).checkpoint.step == 10
    assert capfd.readouterr().err == ""


def test_a_disk_that_turns_out_full_is_one_error(tmp_path):
    """The system's own words, and not a line of orbax's threads; what was before is good."""
    code = """if True:
        import resource, signal, sys, pathlib
        import numpy as np
        sys.path.insert(0, sys.argv[1])
        import checkpoints
        folder = pathlib.Path(sys.argv[2])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        writer = checkpoints.Writer(folder, keep=3)
        writer.save(10, {"w": np.ones(3)}, {})
        writer.save(20, {"w": np.ones(3)}, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        try:
            writer.save(30, {"w": np.random.default_rng(0).random(100_000)}, {})
            writer.close()
        except OSError as e:
            print(e.strerror, e.filename, sep="|")
        print(checkpoints.find(folder).checkpoint.step, sorted(p.name for p in folder.iterdir()))"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"File too large|{tmp_path / '30'}", "20 ['10', '20']"]


def test_what_a_kill_left_is_removed(folder, tmp_path):
    for name in ("40.orbax-checkpoint-tmp/state", "10/state"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(folder / "20", tmp_path / "20")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.clean(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20", "notes.txt"]


def test_digests_tell_apart():
    a = {"x": np.zeros(4, np.float32)}
    others = [{"x": np.zeros((2, 2), np.float32)}, {"x": np.zeros(4, np.int32)}, {"y": a["x"]}]
    assert len({checkpoints.digest(tree) for tree in [a, *others, {"x": -a["x"]}]}) == 5
    assert checkpoints.digest(a, {"n": 1}) != checkpoints.digest(a, {"n": 2})
    assert checkpoints.digest(a) == checkpoints.digest({"x": a["x"].copy()})
