"""What the TPU's own compiler makes of the ops, for a v5e, without one.

It is in the package libtpu, which is not among fnnet's: where it is missing these are skipped.
`.ci/run` installs it.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from fnnet import linear_cross_entropy, plain
from fnnet.measure.mlp import loss as mlp_loss
from tests.cases import Call, each_op
from tests.compare import loss_of

pytest.importorskip("libtpu", reason="needs the package libtpu")


@pytest.fixture
def topology(monkeypatch):
    """Four chips, 2 x 2."""
    # there is no machine to ask what it is
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    with jax.enable_x64(False):
        yield topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")


def compiled(f, *args, sharding):
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding) for a in args]
    return jax.jit(f).lower(*shapes).compile()


@each_op()
def test_gradient_compiles(case: Call, key, topology):
    args = case.args(key, "float32")
    chip = SingleDeviceSharding(topology.devices[0])
    gradient = jax.grad(loss_of(case.op), tuple(range(len(args))))
    assert compiled(gradient, *args, sharding=chip).memory_analysis().output_size_in_bytes > 0


def test_a_large_vocabulary_fits(topology):
    """8192 tokens, 256000 classes: the logits alone are 4.2 GB in bfloat16, 8.4 GB in float32."""
    n, d, v = 8192, 2304, 256_000
    args = (
        jax.ShapeDtypeStruct((n, d), jnp.bfloat16),
        jax.ShapeDtypeStruct((d, v), jnp.bfloat16),
        jax.ShapeDtypeStruct((n,), jnp.int32),
    )

    def on_all_logits(x, w, labels):
        z = (x @ w).astype(jnp.float32)
        return jnp.mean(jax.nn.logsumexp(z, -1) - jnp.take_along_axis(z, labels[:, None], 1)[:, 0])

    def temp(loss):
        chip = SingleDeviceSharding(topology.devices[0])
        gradient = jax.value_and_grad(loss, (0, 1))
        return compiled(gradient, *args, sharding=chip).memory_analysis().temp_size_in_bytes

    assert temp(linear_cross_entropy) < 0.1e9
    assert temp(on_all_logits) > 12e9


def test_a_net_on_four_chips_communicates_as_autodiff_does(topology):
    mesh = topologies.make_mesh(topology, (2, 2), ("data", "model"))

    def shape(*sizes, spec):
        return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    params = (
        (shape(512, 1024, spec=(None, "model")), shape(1024, spec=("model",))),
        (shape(1024, 16, spec=("model", None)), shape(16, spec=(None,))),
    )
    x, y = shape(256, 512, spec=("data",)), shape(256, 16, spec=("data",))

    def exchanges(loss):
        program = jax.jit(jax.grad(loss)).lower(params, x, y).compile().as_text()
        kinds = ("all-reduce(", "all-gather(", "reduce-scatter(", "all-to-all(")
        return {kind: program.count(kind) for kind in kinds}

    by_hand = exchanges(mlp_loss)
    assert sum(by_hand.values()) > 0
    assert by_hand == exchanges(plain(mlp_loss))
