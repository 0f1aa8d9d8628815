"""Strict numerics for every test, and eight virtual devices."""

import itertools
import os
import tempfile
from importlib.metadata import version

# Before jax is imported: devices are counted once. Tests compile much and compute little, so
# programs are compiled without LLVM's optimisations, and by XLA's older emitter of fused loops,
# while it has one: in a fraction of the time. Where a level is set already, all is left as it is.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
    )
    if version("jaxlib").startswith("0.10."):  # later ones end at a flag they do not know
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# where the TPU's compiler is installed, several workers may load it: no chip is touched
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# where nothing can be written at home, matplotlib and the notebooks' kernels write elsewhere
if not os.access(os.path.join(os.path.expanduser("~"), "."), os.W_OK):  # a folder, or none
    elsewhere = tempfile.mkdtemp()
    for name in ("MPLCONFIGDIR", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        os.environ.setdefault(name, elsewhere)
    os.environ.setdefault("JUPYTER_RUNTIME_DIR", f"{elsewhere}/runtime")

import hypothesis
import jax
import pytest

from tests import marks

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# each drawn shape is compiled anew; compiling takes its time, and a shared machine more
for name, examples in (("few", 8), ("many", 25)):
    hypothesis.settings.register_profile(
        name,
        deadline=None,
        max_examples=examples,
        derandomize=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("few")  # pytest --hypothesis-profile=many


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20_261_121)


_ended = itertools.count(1)


def pytest_runtest_teardown() -> None:
    """Forget compiled programs now and then: those of thousands of tests take gigabytes."""
    if next(_ended) % 400 == 0:
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks first: they take longest, and workers that end early can share what is left."""
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)
    marks.each_value_once(items)
