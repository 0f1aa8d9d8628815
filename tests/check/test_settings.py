"""Any numerics on entry, and the same after it, whatever happens."""

import jax
import jax.numpy as jnp
import pytest

import fnnet
from fnnet.check import check_vjp
from tests.planted.functions import lin, lin_args
from tests.planted.row import changed, rule

SETTINGS = {
    "x64 off": lambda: jax.enable_x64(False),
    "promotion": lambda: jax.numpy_dtype_promotion("standard"),
    "rank": lambda: jax.numpy_rank_promotion("allow"),
    "no jit": lambda: jax.disable_jit(True),
    "debug nans": lambda: jax.debug_nans(True),
    "matmul precision": lambda: jax.default_matmul_precision("bfloat16"),
    "transfer guard": lambda: jax.transfer_guard("disallow"),
}


def _state():
    return {
        k: v
        for k, v in jax.config.values.items()
        if k.startswith(("jax_enable", "jax_numpy", "jax_debug", "jax_default", "jax_disable"))
    }


@pytest.mark.parametrize("setting", SETTINGS)
def test_any_setting_on_entry(setting):
    args = lin_args(4, 3, 2)
    wrong = changed(lin, lambda d, a, g: (d[0], 0.3 * d[1], d[2]))
    with SETTINGS[setting]():
        before = _state()
        assert check_vjp(wrong, args, stop_early=True).diagnosis == "scaled"
        assert check_vjp(fnnet.lin, args).verdict == "correct"
        assert _state() == before


def test_a_rule_that_strict_promotion_refuses_is_checked_all_the_same():
    def bwd(a, y, g):
        return (g * jnp.ones(2, int) * jnp.cos(a[0]),)

    with jax.numpy_dtype_promotion("strict"):
        report = check_vjp(rule(jnp.sin, bwd), (jnp.ones(2, "float32"),))
        assert report.verdict == "correct", f"{report}"
        assert "strict promotion" in str(report)


def test_settings_are_restored_after_an_exception():
    def broken(x):
        raise RuntimeError("of the user's own")

    before = _state()
    with pytest.raises(RuntimeError, match="of the user's own"):
        check_vjp(broken, (jnp.ones(3),))
    assert _state() == before


def test_nan_is_no_error_of_the_checker():
    f = rule(lambda x: jnp.log(x), lambda a, y, g: (g / a[0],))
    with jax.debug_nans(True):
        assert check_vjp(f, (jnp.asarray([1.0, 2.0]),)).verdict == "correct"
    report = check_vjp(f, (jnp.asarray([-1.0, 0.0, 2.0]),))
    assert report.verdict != "wrong", f"{report}"


def test_no_state_leaks_between_calls():
    right = check_vjp(fnnet.lin, lin_args(4, 3, 2)).to_dict()
    check_vjp(changed(lin, lambda d, a, g: (d[0], -d[1], d[2])), lin_args(), stop_early=True)
    assert check_vjp(fnnet.lin, lin_args(4, 3, 2)).to_dict() == right
