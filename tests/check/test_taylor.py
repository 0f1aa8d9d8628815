"""Taylor's remainders fall with their orders where rule and second derivative are right."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnnet
from fnnet.check import taylor
from tests.planted.functions import lin_args
from tests.planted.row import f32, rule


def test_slopes_of_right_rules():
    for f, args in ((fnnet.gelu, (f32(-1.0, 0.3, 2.0),)), (fnnet.softmax, (f32(0.2, 1.0, -1.0),))):
        found = taylor(f, args)
        assert found.ok, f"{found}"
        np.testing.assert_allclose(found.slopes, (1, 2, 3), atol=0.3)


def test_a_function_of_second_degree_has_no_third_remainder():
    found = taylor(fnnet.lin, lin_args())
    assert found.ok
    assert not found.slopes[2] < 3


def test_a_wrong_gradient_stays_at_slope_1():
    found = taylor(rule(jnp.sin, lambda a, y, g: (1.01 * g * jnp.cos(a[0]),)), (f32(0.5, 1.0),))
    assert not found.ok
    assert found.slopes[1] == pytest.approx(1, abs=0.2)
    assert "do not fall as they should" in str(found)


def test_a_wrong_second_derivative_stays_at_slope_2():
    def bwd(a, y, g):
        return (g * lax.stop_gradient(jnp.cos(a[0])),)

    found = taylor(rule(jnp.sin, bwd), (f32(0.5, 1.0),))
    assert found.slopes[1] == pytest.approx(2, abs=0.2)
    assert found.slopes[2] == pytest.approx(2, abs=0.2)
    assert not found.ok


def test_table_json_and_plot(tmp_path):
    found = taylor(fnnet.silu, (f32(-1.0, 0.5),), key=3)
    assert found == taylor(fnnet.silu, (f32(-1.0, 0.5),), key=3)
    lines = str(found).splitlines()
    assert lines[-1].split()[0] == "slope"
    assert len(lines) == 3 + len(found.steps) + 2
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["ok"]
    assert len(read["remainders"]) == 3
    pytest.importorskip("matplotlib")
    figure = found.plot(tmp_path / "taylor.png")
    assert (tmp_path / "taylor.png").stat().st_size > 1000
    assert [line.get_label()[:7] for line in figure.axes[0].lines][::2] == [
        "order 1",
        "order 2",
        "order 3",
    ]


def test_nothing_to_move():
    with pytest.raises(ValueError, match="no float argument"):
        taylor(lambda i: i, (jnp.arange(3),))
