"""What is wrong is said: the op, the argument, what was wanted, what came, what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import (
    attention,
    batch_norm,
    cross_entropy,
    gelu,
    glu_mlp,
    group_norm,
    gru,
    kernel_sum,
    layer_norm,
    lin,
    linear_cross_entropy,
    log_softmax,
    matmul,
    mse,
    pairwise_distance,
    relu,
    rms_norm,
    rnn,
    rope,
    silu,
    softmax,
)

F = jnp.ones
I = np.ones((2, 3), int)

WRONG = {
    "lin: inner sizes": (
        lambda: lin(F((5, 3)), F((4, 2))),
        ValueError,
        r"lin: the last axis of x .*n_in = 4.*\(5, 3\).*\(4, 2\)",
    ),
    "lin: transposed": (lambda: lin(F((5, 3)), F((2, 3))), ValueError, r"pass w\.T"),
    "lin: weights no matrix": (
        lambda: lin(F((5, 3)), F(3)),
        ValueError,
        r"lin: w must have shape \(n_in, n_out\); got shape \(3,\)",
    ),
    "lin: bias of one": (
        lambda: lin(F((5, 3)), F((3, 2)), F(1)),
        ValueError,
        r"lin: b must have shape \(n_out,\) = \(2,\); got shape \(1,\)",
    ),
    "lin: bias a matrix": (
        lambda: lin(F((5, 3)), F((3, 2)), F((5, 2))),
        ValueError,
        r"lin: b must have shape",
    ),
    "lin: scalar": (lambda: lin(F(()), F((3, 2))), ValueError, r"lin: the last axis of x"),
    "lin: integers": (
        lambda: lin(I, F((3, 2))),
        TypeError,
        r"lin: x must be an array of floating .* got int64\[2,3\].*astype",
    ),
    "lin: booleans": (
        lambda: lin(F((2, 3)), np.ones((3, 2), bool)),
        TypeError,
        r"lin: w .*got bool\[3,2\]",
    ),
    "lin: a list": (
        lambda: lin([[1.0, 2.0]], F((2, 2))),
        TypeError,
        r"lin: x .* got a list.*jnp\.asarray",
    ),
    "lin: a string": (
        lambda: lin("x", F((2, 2))),
        TypeError,
        r"lin: x must be an array; got 'x', a str",
    ),
    "lin: None": (lambda: lin(None, F((2, 2))), TypeError, r"lin: x .*got None"),
    "lin: w forgotten": (
        lambda: lin(F((2, 2))),
        TypeError,
        r"lin: missing a required argument: 'w'.*lin\(x, w, b=None",
    ),
    "lin: unknown keyword": (
        lambda: lin(F((2, 2)), F((2, 2)), bias=F(2)),
        TypeError,
        r"lin: got an unexpected keyword argument 'bias'",
    ),
    "lin: precision an array": (
        lambda: lin(F((2, 2)), F((2, 2)), precision=F(2)),
        TypeError,
        # under jit it is traced
        r"lin: precision must be (a jax\.lax\.Precision|known).*got float64\[2\]",
    ),
    "lin: precision unknown": (
        lambda: lin(F((2, 2)), F((2, 2)), precision="most"),
        ValueError,
        r"[Pp]recision",
    ),
    "matmul: inner sizes": (
        lambda: matmul(F((5, 3)), F((4, 2))),
        ValueError,
        r"matmul: the last axis of a must equal the last but one axis of b; "
        r"got shapes \(5, 3\) and \(4, 2\)",
    ),
    "matmul: vectors": (lambda: matmul(F(3), F(4)), ValueError, r"matmul: .*the length of b"),
    "matmul: scalar": (
        lambda: matmul(2.0, F(4)),
        ValueError,
        r"matmul: a and b must have at least one axis.*Multiply by a scalar with \*",
    ),
    "matmul: batch axes": (
        lambda: matmul(F((2, 3, 4)), F((3, 4, 5))),
        ValueError,
        r"matmul: the batch axes \(2,\) of a and \(3,\) of b",
    ),
    "matmul: integers": (lambda: matmul(I, I.T), TypeError, r"matmul: a must be"),
    "relu: complex": (
        lambda: relu(F(2, complex)),
        TypeError,
        r"relu: x must be an array of real .* got complex128\[2\].*real part",
    ),
    "relu: integers": (lambda: relu(np.arange(3)), TypeError, r"relu: x .*int64\[3\]"),
    "relu: Python integer": (lambda: relu(3), TypeError, r"relu: x must be"),
    "mse: broadcast columns": (
        lambda: mse(F((4, 1)), F((4, 4))),
        ValueError,
        r"mse: pred must have targ's shape \(4, 4\), or \(4, 4, 1\); got \(4, 1\)",
    ),
    "mse: row against column": (lambda: mse(F(4), F((4, 1))), ValueError, r"mse: .*got \(4,\)"),
    "mse: one target": (lambda: mse(F(4), 1.0), ValueError, r"mse: "),
    "mse: integer targets": (lambda: mse(F(4), np.arange(4)), TypeError, r"mse: targ must be"),
    "mse: complex": (
        lambda: mse(F(4, complex), F(4)),
        TypeError,
        r"mse: pred must be an array of real",
    ),
    "softmax: axis": (
        lambda: softmax(F((2, 3)), axis=2),
        ValueError,
        r"softmax: axis must be from -2 to 1 for z of shape \(2, 3\); got 2",
    ),
    "softmax: scalar": (lambda: softmax(1.0), ValueError, r"softmax: axis .*there is none"),
    "log_softmax: two axes": (
        lambda: log_softmax(F((2, 3)), axis=(0, 1)),
        TypeError,
        r"log_softmax: axis must be one whole number",
    ),
    "cross_entropy: float classes": (
        lambda: cross_entropy(F((2, 3)), F(2)),
        ValueError,
        r"cross_entropy: labels must be distributions .*\(2, 3\).*got float64\[2\].*integer dtype",
    ),
    "cross_entropy: one-hot integers": (
        lambda: cross_entropy(F((2, 3)), I),
        ValueError,
        r"cross_entropy: labels must be integer classes \(...\) of shape \(2,\)",
    ),
    "cross_entropy: a list of labels": (
        lambda: cross_entropy(F((2, 3)), [0, 1]),
        TypeError,
        r"cross_entropy: labels must be an array; got a list",
    ),
    "cross_entropy: reduction": (
        lambda: cross_entropy(F((2, 3)), I[0, :2], reduction="average"),
        ValueError,
        r'reduction must be "none", "mean" or "sum"; got \'average\'',
    ),
    "cross_entropy: smoothing": (
        lambda: cross_entropy(F((2, 3)), I[0, :2], smoothing=1.5),
        ValueError,
        r"smoothing must be a number from 0 to 1; got 1.5",
    ),
    "cross_entropy: ignored distributions": (
        lambda: cross_entropy(F((2, 3)), F((2, 3)), ignore_index=0),
        ValueError,
        r"ignore_index needs integer labels.*weight 0",
    ),
    "cross_entropy: weights of classes": (
        lambda: cross_entropy(F((2, 3)), I[0, :2], weights=F(3)),
        ValueError,
        r"weights must have shape \(2,\), one for each sample; got \(3,\)",
    ),
    "gelu: complex": (lambda: gelu(F(2, complex)), TypeError, r"gelu: x must be"),
    "silu: integers": (lambda: silu(I), TypeError, r"silu: x must be"),
    "layer_norm: scale": (
        lambda: layer_norm(F((2, 3)), F(2)),
        ValueError,
        r"layer_norm: scale must have shape \(d,\) = \(3,\).*got shape \(2,\)",
    ),
    "rnn: batch first": (
        lambda: rnn(F((2, 7, 3)), F((2, 4)), F((3, 4)), F((4, 4)), F(4)),
        ValueError,
        r"rnn: h0 must have .*batch axes \(7,\) of x.*\(time first\); got shape \(2, 4\)",
    ),
    "rnn: one sequence of numbers": (
        lambda: rnn(F(7), F(4), F((1, 4)), F((4, 4)), F(4)),
        ValueError,
        r"rnn: x must have shape \(T, \.\.\., n_in\).*x\[:, None\]",
    ),
    "rnn: transposed": (
        lambda: rnn(F((7, 2, 3)), F((2, 4)), F((4, 3)), F((4, 4)), F(4)),
        ValueError,
        r"rnn: wx must have shape \(n_in, n_h\) = \(3, 4\).*got shape \(4, 3\); it seems",
    ),
    "rnn: integers": (
        lambda: rnn(np.ones((7, 2, 3), int), F((2, 4)), F((3, 4)), F((4, 4)), F(4)),
        TypeError,
        r"rnn: x must be an array of real",
    ),
    "gru: one gate": (
        lambda: gru(F((7, 2, 3)), F((2, 4)), F((3, 4)), F((4, 12)), F(12)),
        ValueError,
        r"gru: wx must have shape \(n_in, 3 n_h\) = \(3, 12\)",
    ),
    "attention: two axes": (
        lambda: attention(F((7, 3)), F((7, 3)), F((7, 3))),
        ValueError,
        r"attention: q must have shape \(..., time, head, feature\); got shape \(7, 3\).*, None\]",
    ),
    "attention: features": (
        lambda: attention(F((1, 7, 2, 3)), F((1, 7, 2, 4)), F((1, 7, 2, 4))),
        ValueError,
        r"attention: k must have q's batch axes \(1,\) and q's number of features 3",
    ),
    "attention: values": (
        lambda: attention(F((1, 7, 2, 3)), F((1, 7, 2, 3)), F((1, 6, 2, 3))),
        ValueError,
        r"attention: v must have one value for each key",
    ),
    "attention: heads": (
        lambda: attention(F((1, 7, 3, 3)), F((1, 7, 2, 3)), F((1, 7, 2, 3))),
        ValueError,
        r"attention: the heads of q, 3, must be a multiple of those of k and v, 2",
    ),
    "attention: mask of numbers": (
        lambda: attention(*[F((1, 7, 2, 3))] * 3, mask=F((1, 1, 7, 7))),
        TypeError,
        r"attention: mask must be boolean.*mask > -inf",
    ),
    "attention: mask of keys": (
        lambda: attention(*[F((5, 7, 2, 3))] * 3, mask=F((5, 7), bool)),
        ValueError,
        r"attention: mask must broadcast to .*= \(5, 2, 7, 7\).*got shape \(5, 7\).*None, None\]",
    ),
    "attention: block": (
        lambda: attention(*[F((1, 7, 2, 3))] * 3, block=0),
        ValueError,
        r"attention: block must be at least 1; got 0",
    ),
    "glu_mlp: activation": (
        lambda: glu_mlp(F((2, 3)), F((3, 4)), F((3, 4)), F((4, 3)), activation="tanh"),
        ValueError,
        r'glu_mlp: activation must be "silu", "gelu", "gelu_tanh" or "relu"; got .tanh.',
    ),
    "glu_mlp: gate and up": (
        lambda: glu_mlp(F((2, 3)), F((3, 4)), F((3, 5)), F((4, 3))),
        ValueError,
        r"glu_mlp: w_gate and w_up must have the same shape",
    ),
    "glu_mlp: down": (
        lambda: glu_mlp(F((2, 3)), F((3, 4)), F((3, 4)), F((5, 3))),
        ValueError,
        r"glu_mlp: w_down must have shape \(f, e\) with f = 4.*got shape \(5, 3\)",
    ),
    "linear_cross_entropy: distributions": (
        lambda: linear_cross_entropy(F((2, 3)), F((3, 4)), F((2, 4))),
        TypeError,
        r"linear_cross_entropy: labels must be integer classes.*use cross_entropy\(lin",
    ),
    "linear_cross_entropy: transposed": (
        lambda: linear_cross_entropy(F((2, 3)), F((4, 3)), np.zeros(2, int)),
        ValueError,
        r"linear_cross_entropy: the last axis of x.*pass w\.T",
    ),
    "linear_cross_entropy: labels": (
        lambda: linear_cross_entropy(F((2, 3)), F((3, 4)), np.zeros(3, int)),
        ValueError,
        r"linear_cross_entropy: labels must be .*shape \(2,\)",
    ),
    "linear_cross_entropy: forward of each sample": (
        lambda: linear_cross_entropy(
            F((2, 3)), F((3, 4)), np.zeros(2, int), mode="forward", reduction="none"
        ),
        ValueError,
        r'mode "forward" is for a loss of one number.*Take mode "recompute"',
    ),
    "linear_cross_entropy: chunk": (
        lambda: linear_cross_entropy(F((2, 3)), F((3, 4)), np.zeros(2, int), chunk="many"),
        TypeError,
        r"linear_cross_entropy: chunk must be a whole number; got 'many'",
    ),
    "linear_cross_entropy: softcap": (
        lambda: linear_cross_entropy(F((2, 3)), F((3, 4)), np.zeros(2, int), softcap=0.0),
        ValueError,
        r"linear_cross_entropy: softcap must be a number above 0, or None",
    ),
    "pairwise_distance: one point": (
        lambda: pairwise_distance(F(3), F((2, 3))),
        ValueError,
        r"pairwise_distance: p must have shape \(..., n, d\).*got shape \(3,\).*p\[None\]",
    ),
    "pairwise_distance: features": (
        lambda: pairwise_distance(F((5, 3)), F((5, 4))),
        ValueError,
        r"pairwise_distance: q must have shape .* features 3; got shape \(5, 4\)",
    ),
    "pairwise_distance: batches": (
        lambda: pairwise_distance(F((2, 5, 3)), F((5, 3))),
        ValueError,
        r"pairwise_distance: q must have .*batch axes \(2,\).*use jax\.vmap",
    ),
    "pairwise_distance: ord": (
        lambda: pairwise_distance(F((5, 3)), ord=3),
        ValueError,
        r'pairwise_distance: ord must be 1, 2 or "sq"; got 3',
    ),
    "kernel_sum: weights": (
        lambda: kernel_sum(F((5, 3)), F((4, 3)), F(5)),
        ValueError,
        r"kernel_sum: weights must have shape .* = \(4,\), .* of q; got shape \(5,\)",
    ),
    "kernel_sum: kernel": (
        lambda: kernel_sum(F((5, 3)), kernel="cauchy"),
        ValueError,
        r'kernel_sum: kernel must be "gaussian", "laplacian" or "rq"; got .cauchy.',
    ),
    "kernel_sum: scale": (
        lambda: kernel_sum(F((5, 3)), scale=0.0),
        ValueError,
        r"kernel_sum: scale must be a number above 0; got 0",
    ),
    "rope: no head": (
        lambda: rope(F((5, 4)), np.arange(5)),
        ValueError,
        r"rope: x must have shape .*got shape \(5, 4\)\. One head is x\[\.\.\., None, :\]",
    ),
    "rope: odd": (lambda: rope(F((5, 1, 3)), np.arange(5)), ValueError, r"rope: x .*d even"),
    "rope: positions": (
        lambda: rope(F((2, 5, 1, 4)), np.zeros((2, 4), int)),
        ValueError,
        r"rope: positions must broadcast to \(..., t\) = \(2, 5\).*got shape \(2, 4\)",
    ),
    "rope: positions by flags": (
        lambda: rope(F((2, 5, 1, 4)), np.zeros(5, bool)),
        TypeError,
        r"rope: positions must be an array of real numbers; got bool\[5\]",
    ),
    "batch_norm: parameters": (
        lambda: batch_norm(F((2, 3, 4)), F(4), axis=1),
        ValueError,
        r"batch_norm: scale must have shape \(c,\) = \(3,\).*got shape \(4,\)",
    ),
    "batch_norm: axis": (
        lambda: batch_norm(F((2, 3)), axis=2),
        ValueError,
        r"batch_norm: axis must be from -2 to 1",
    ),
    "group_norm: groups": (
        lambda: group_norm(F((2, 6)), 4),
        ValueError,
        r"group_norm: groups must divide the number of channels, 6 .*got 4",
    ),
    "group_norm: one sample": (
        lambda: group_norm(F(6), 2),
        ValueError,
        r"group_norm: x must have shape \(n, \.\.\., c\).*One sample is x\[None\]",
    ),
    "group_norm: parameters": (
        lambda: group_norm(F((2, 6)), 2, None, F(3)),
        ValueError,
        r"group_norm: shift must have shape \(c,\) = \(6,\).*got shape \(3,\)",
    ),
    "rms_norm: scalar": (lambda: rms_norm(1.0), ValueError, r"rms_norm: x must have at least one"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("compiled", [False, True])
def test_wrong_arguments(name, compiled):
    call, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        jax.jit(call)() if compiled else call()


def test_mse_fwd_alone_broadcasts_nothing_either():
    with pytest.raises(ValueError, match="mse: pred must have targ's shape"):
        fnnet.ops.mse_fwd(F((2, 3)), F((3, 2)))


def test_a_derivative_of_wrong_arguments_is_told_alike():
    with pytest.raises(ValueError, match="lin: the last axis of x"):
        jax.grad(lambda w: fnnet.lin(F((5, 3)), w).sum())(F((4, 2)))
