"""The memory of compiled programs: row A7, and what backends do not tell."""

import json

import jax
import jax.numpy as jnp
import pytest

from fnnet.measure import compiled
from fnnet.measure.memory import compiled_memory

MIB = 1 << 20


def test_broadcasting_costs_its_result_and_nothing_else():
    """Row A7: 1.145 MiB go in, and with the result it is 24.03 MiB."""
    a = jax.ShapeDtypeStruct((30_000, 1, 10), "float32")
    b = jax.ShapeDtypeStruct((20, 10), "float32")

    def difference(a, b):
        return a - b[None]

    with jax.numpy_rank_promotion("allow"):
        m = compiled_memory(difference, a, b)
        assert m.argument == 30_000 * 10 * 4 + 20 * 10 * 4
        assert m.output == 30_000 * 20 * 10 * 4
        assert (m.temp, m.alias) == (0, 0)
        assert round(m.argument / MIB, 3) == 1.145
        assert round(m.total / MIB, 2) == 24.03

        # compiled with its use, the large result is never written down
        def distances(a, b):
            return jnp.sum(difference(a, b) ** 2, -1)

        used = compiled_memory(distances, a, b)
    assert used.output == 30_000 * 20 * 4
    assert used.temp < m.output / 100


def test_a_broadcast_product_in_float64():
    """Row A7: (n, 192, 1) times (1, 192, 32), scaled down, with and without the sum after it."""
    a, b = jnp.ones((100, 192, 1)), jnp.ones((1, 192, 32))
    product = compiled_memory(lambda a, b: a * b, a, b)
    assert (product.output, product.temp) == (100 * 192 * 32 * 8, 0)
    summed = compiled_memory(lambda a, b: jnp.sum(a * b, axis=1), a, b)
    assert summed.output == 100 * 32 * 8
    assert summed.temp < product.output / 100


def test_temporary_memory_is_seen():
    """The gradient of a loop stacks what its turns store."""

    def loop(x):
        return jnp.sum(jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 10)[0])

    x = jnp.ones(1000)
    assert compiled_memory(loop, x).temp < 5 * x.nbytes
    assert compiled_memory(jax.grad(loop), x).temp >= 10 * x.nbytes


def test_jitted_functions_keep_their_static_and_donated_arguments():
    scaled = jax.jit(lambda x, n: x * n, static_argnames="n", donate_argnums=0)
    m = compiled_memory(scaled, jnp.ones(8), n=3.0)
    assert (m.argument, m.output, m.alias, m.total) == (64, 64, 64, 64)


def test_the_repr_and_json():
    m = compiled_memory(lambda x: x + 1, jnp.ones((300, 1)))
    assert m.told
    assert m.backend == "cpu"
    assert repr(m).splitlines()[0].split() == ["on", "cpu", "bytes"]
    assert "output    2,400  2.34 KiB" in repr(m)
    assert json.loads(json.dumps(m.to_dict()))["total"] == 4800


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (None, "the backend does not tell"),
        (NotImplementedError("no such analysis\nat all"), r"does not tell \(no such analysis\)"),
        (NotImplementedError(), r"does not tell \(NotImplementedError\)"),
    ],
)
def test_a_backend_that_does_not_tell(answer, note):
    class Program:
        input_shardings = output_shardings = ()

        def memory_analysis(self):
            if answer is not None:
                raise answer

    m = compiled.memory_of(Program())
    assert not m.told
    assert (m.argument, m.output, m.temp, m.alias, m.total) == (None,) * 5
    with pytest.raises(AssertionError, match=f"compiled memory on cpu: .*{note}"):
        raise AssertionError(repr(m))


def test_what_cannot_be_compiled():
    with pytest.raises(TypeError):
        compiled_memory(lambda x: x, "text")
