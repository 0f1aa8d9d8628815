"""Programs compiled for hardware that is not there: names, the reading of their text, memory.

The compilers are in packages of their own, which `.ci/run` installs; without them those tests are
skipped. How a program's text is read is asked of programs for this machine's CPUs too.
"""

import io
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fnnet import linear_cross_entropy, plain, targets
from fnnet.measure import bench_target, block
from fnnet.measure.chips import GPUS, devices_of, target_of
from fnnet.measure.compiled import compiled_memory
from fnnet.measure.hlo import Exchange, Program, bytes_of
from fnnet.measure.mlp import loss as mlp_loss
from fnnet.measure.programs import read


def test_names():
    assert target_of("TPU v5e:16x16").sizes == (16, 16)
    assert target_of("h100").name == "h100:1"
    for name in targets.names():
        assert target_of(name).chip in name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5f", "no chip is known by the name 'v5f'"),
        ("tpu h100", "did you mean 'h100'"),
        ("h1000:2", "There are: tpu v2"),
        ("h100:2x2", "counted by one number (h100:4)"),
        ("v5e:0x2", "each size must be 1 or more"),
        ("", "There are"),
        ("tpu v5e:2x2 now", "There are"),
    ],
)
def test_a_name_that_means_nothing(name, words):
    with pytest.raises(ValueError, match="targets: ") as error:
        targets.compile_for(jnp.sin, jnp.ones(3), target=name)
    assert words in str(error.value)


def test_arguments_that_do_not_fit_each_other():
    x = jnp.ones((4, 4))
    with pytest.raises(TypeError, match="must be a text such as 'tpu v5e:2x2'"):
        targets.compile_for(jnp.sin, x, target=5)
    with pytest.raises(TypeError, match="sizes of its axes by name"):
        targets.compile_for(jnp.sin, x, target="v5e:2x2", mesh=4)
    with pytest.raises(ValueError, match="there is none: give mesh="):
        targets.compile_for(jnp.sin, x, target="v5e:2x2", in_shardings=P("a"))


@pytest.mark.parametrize(("target", "extra"), [("v5e:2x2", "tpu"), ("h100", "cuda")])
def test_a_compiler_that_is_not_installed(target, extra, monkeypatch):
    devices_of.cache_clear()  # of tests that had one
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'fnnet\[targets-{extra}\]'"):
        targets.compile_for(jnp.sin, jnp.ones(3), target=target)


def test_bytes_of_shapes():
    assert bytes_of("bf16[128,512]{1,0:T(8,128)(2,1)S(1)}") == 128 * 512 * 2
    assert bytes_of("(s32[], pred[3], /*index=2*/f8e4m3fn[5], s4[3], c64[2], token[])") == 30
    assert bytes_of("f32[0,3]") == 0


def of_cpu(f, *args, **sizes):
    """What is read of a program for a mesh of this machine's virtual CPUs."""
    mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * len(sizes))
    with jax.set_mesh(mesh):
        return read(jax.jit(f).lower(*args).compile(), "cpu", sizes)


@pytest.mark.parametrize("over", [("data",), ("model",), ("data", "model")])
def test_exchanges_and_their_axes(over):
    x = jnp.ones((8, 6), jnp.float32)

    @jax.shard_map(in_specs=P("data", "model"), out_specs=P())
    def summed(x):
        return jax.lax.psum(jax.lax.psum(x, over), tuple({"data", "model"} - set(over)))

    compiled = of_cpu(summed, x, data=4, model=2)
    first = compiled.collectives[0]
    assert (first.kind, set(first.axes), first.count, first.runs) == ("all-reduce", set(over), 1, 1)
    assert first.bytes == 2 * 3 * 4  # of each device's part
    assert json.loads(json.dumps(compiled.to_dict()))["memory"]["total"] > 0


def test_exchanges_of_other_kinds():
    x = jnp.ones((8, 8), jnp.float32)

    @jax.shard_map(in_specs=P("data", None), out_specs=P("data", None))
    def several(x):
        x = jax.lax.ppermute(jnp.sin(x), "data", [(i, (i + 1) % 4) for i in range(4)])
        x = jax.lax.all_to_all(jnp.sin(x), "data", 1, 1, tiled=True)
        return jax.lax.psum_scatter(jnp.sin(jax.lax.all_gather(x, "data")), "data")

    found = {c.kind: c for c in of_cpu(several, x, data=4, model=2).collectives}
    assert {"collective-permute", "all-to-all"} <= set(found)
    assert {"all-gather", "all-reduce", "reduce-scatter"} & set(found)
    assert all(c.axes == ("data",) for c in found.values())


def test_what_is_in_a_loop_is_counted_by_its_turns():
    @jax.shard_map(in_specs=P("data"), out_specs=P("data"))
    def loop(x):
        def turn(c, _):
            return c * jax.lax.psum(jnp.sum(jnp.sin(c)), "data"), None

        return jax.lax.scan(turn, x, None, 5)[0]

    compiled = of_cpu(loop, jnp.ones(16, jnp.float32), data=4, model=2)
    (one,) = compiled.collectives
    assert (one.kind, one.axes, one.count, one.runs) == ("all-reduce", ("data",), 1, 5)
    assert compiled.flops is None
    assert "counts a loop's body once" in compiled.note


TEXT = """
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %sine = f32[8]{0} sine(%p)
}

%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %start = (f32[8]{0}, f32[8]{0}) all-reduce-start(%x), replica_groups=[2,2]<=[2,2]T(1,0)
  %done = f32[8]{0} all-reduce-done(%start)
  ROOT %r = (s32[], f32[8]{0}) tuple(%i, %done)
}

%condition (t: (s32[], f32[8])) -> pred[] {
  %t.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %f = f32[8]{0} fusion(%x.1), kind=kLoop, calls=%fused
  %moved = f32[8]{0} collective-permute(%f), source_target_pairs={{0,1},{1,0}}
  %init = (s32[], f32[8]{0}) tuple(%zero, %moved)
  %loop = (s32[], f32[8]{0}) while(%init), condition=%condition, body=%body TRIPS
  %out = f32[8]{0} get-tuple-element(%loop), index=1
  ROOT %dot = f32[8]{0} custom-call(%out), custom_call_target="__cublas$gemm"
}
"""


@pytest.mark.parametrize(("trips", "runs"), [(', x={"known_trip_count":{"n":"7"}}', 7), ("", None)])
def test_the_text_of_a_program(trips, runs):
    program = Program(TEXT.replace(" TRIPS", trips))
    moved, summed = sorted(program.exchanges(), key=lambda e: e.kind, reverse=True)
    assert moved == Exchange("collective-permute", ((0, 1), (1, 0)), 32, 1)
    assert summed == Exchange("all-reduce", ((0, 2), (1, 3)), 32, runs)
    assert program.has_loops
    assert (program.fusions, program.kernels) == (1, 4)
    assert program.libraries == {"__cublas$gemm": 1}


def tpu(**options):
    pytest.importorskip("libtpu", reason="needs the package libtpu")
    return {"target": "tpu v5e:2x2", **options}


def test_a_large_vocabulary_fits_a_tpu():
    """8192 tokens, 256000 classes: the logits alone are 4.2 GB in bfloat16, 8.4 GB in float32."""
    n, d, v = 8192, 2304, 256_000
    shape = jax.ShapeDtypeStruct
    args = (shape((n, d), "bfloat16"), shape((d, v), "bfloat16"), shape((n,), "int32"))
    with jax.enable_x64(False):
        gradient = jax.value_and_grad(linear_cross_entropy, (0, 1))
        compiled = targets.compile_for(gradient, *args, **tpu())
    assert compiled.memory.scratch < 0.1e9
    assert compiled.collectives == ()


def test_compiled_memory_of_a_target():
    tpu()
    x = jax.ShapeDtypeStruct((64, 100), "float32")  # in memory rows have 128 numbers there
    with jax.enable_x64(False):
        needs = compiled_memory(lambda x: jnp.sin(x)[:8], x, target="v5e")
    assert (needs.argument, needs.output, needs.backend) == (64 * 512, 8 * 512, "tpu v5e:1")


def test_a_net_on_four_chips():
    shape = jax.ShapeDtypeStruct
    params = (
        (shape((512, 1024), "float32"), shape((1024,), "float32")),
        (shape((1024, 16), "float32"), shape((16,), "float32")),
    )
    specs = ((P(None, "model"), P("model")), (P("model"), P()))
    data = shape((256, 512), "float32"), shape((256, 16), "float32")

    def compiled(loss):
        return targets.compile_for(
            jax.grad(loss),
            params,
            *data,
            **tpu(mesh={"data": 2, "model": 2}, in_shardings=(specs, P("data"), None)),
        )

    with jax.enable_x64(False):
        by_hand = compiled(mlp_loss)
        assert by_hand.collectives
        assert all(c.runs == c.count for c in by_hand.collectives)
        assert {axis for c in by_hand.collectives for axis in c.axes} <= {"data", "model"}
        assert by_hand.flops > 0
        # arguments are cut: a quarter of the large matrix or a half, and half the batch
        assert by_hand.memory.arguments < 0.6 * 4 * (512 * 1024 + 256 * 512 + 1024 * 16 + 256 * 16)
        automatic = compiled(plain(mlp_loss))
    # cut over the batch alone, what is summed over it is the gradients
    assert {(c.kind, c.axes) for c in by_hand.collectives} == {
        (c.kind, c.axes) for c in automatic.collectives
    }


def test_meshes_of_a_target():
    mesh = targets.mesh_on(tpu()["target"], {"data": 4})
    assert mesh.shape == {"data": 4}
    assert targets.mesh_on(tpu()["target"], mesh) is mesh
    here = jax.make_mesh((2, 2), ("a", "b"), (AxisType.Explicit, AxisType.Auto))
    there = targets.mesh_on(tpu()["target"], here)
    assert there.axis_types == here.axis_types
    with pytest.raises(ValueError, match=r"has 4 devices, and mesh \{'a': 3\} another number"):
        targets.mesh_on(tpu()["target"], {"a": 3})
    # an argument's own cut is kept
    x = jax.device_put(jnp.ones((8, 8), "float32"), NamedSharding(here, P("a", "b")))
    with jax.enable_x64(False):
        own = targets.compile_for(jnp.sin, x, **tpu(mesh=here))
        whole = targets.compile_for(jnp.sin, x, **tpu(mesh={"data": 4}))
    assert 4 * own.memory.outputs <= whole.memory.outputs * 4
    assert own.memory.arguments <= whole.memory.arguments


def test_a_slice_that_does_not_exist():
    tpu()
    with pytest.raises(ValueError, match=r"the compiler knows no tpu v5e:3x5"):
        targets.compile_for(jnp.sin, jnp.ones(3), target="tpu v5e:3x5")


@pytest.mark.parametrize("chip", GPUS)
def test_every_gpu_is_known_to_its_compiler(chip):
    pytest.importorskip("jax_plugins.xla_cuda13", reason="needs JAX's CUDA plugin")
    x = jax.ShapeDtypeStruct((64, 32), "float32")
    with jax.enable_x64(False):
        compiled = targets.compile_for(lambda x: jnp.sin(x) * 2, x, target=chip)
    assert (compiled.memory.arguments, compiled.memory.outputs) == (64 * 32 * 4, 64 * 32 * 4)
    assert (compiled.kernels, compiled.fusions) == (1, 1)


@pytest.mark.parametrize("target", ["tpu v5e:2x2", "h100:4"])
def test_a_block_exchanges_what_autodiff_does(target):
    """Of a transformer block cut over data and model, in bfloat16."""
    module = "libtpu" if "tpu" in target else "jax_plugins.xla_cuda13"
    pytest.importorskip(module, reason=f"needs the compiler for {target}")
    sizes = block.Sizes(time=256, width=512, heads=4, hidden=1024)
    with jax.enable_x64(False):
        whole = bench_target.run(["block"], target, sizes=sizes, human=io.StringIO())["block"]
    hand, auto = (
        (sum(c.count for c in made.collectives), sum(c.bytes for c in made.collectives))
        for made in (whole.ways["hand"], whole.ways["autodiff"])
    )
    assert hand[0] <= auto[0]
    assert hand[1] <= auto[1]
