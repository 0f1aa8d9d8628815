"""What JAX's errors about a rule mean, in the words of someone who writes rules."""

from __future__ import annotations

import jax

from fnnet.check.case.case import first_line
from fnnet.check.case.finding import Detail

_KNOWN = (
    (
        "same container (pytree) structure",
        "shape",
        "The backward rule must return a tuple with one cotangent for each argument, each of its "
        "argument's structure; None stands for a zero cotangent.",
    ),
    (
        "must produce an output with the same type",
        "shape",
        "A cotangent must have its argument's shape: sum over the axes that were broadcast "
        "(fnnet.rules.sum_to).",
    ),
    (
        "must return a tuple with one cotangent",
        "shape",
        "The backward rule must return a tuple with one cotangent for each argument.",
    ),
    # what JAX says where custom_vjp is a hijax primitive (JAX_CUSTOM_VJP3)
    (
        "doesn't match expected type",
        "shape",
        "A cotangent must have its argument's shape: sum over the axes that were broadcast "
        "(fnnet.rules.sum_to).",
    ),
    (
        "pytree structure error",
        "shape",
        "Each cotangent must have its argument's structure; None stands for a zero cotangent.",
    ),
    (
        "must produce a tuple of length equal",
        "shape",
        "The backward rule must return a tuple with one cotangent for each argument.",
    ),
    ("cotangent(s)", "shape", "The backward rule returned a wrong number of cotangents."),
    ("must have the argument's structure", "shape", "A cotangent has its argument's structure."),
    (
        "which is",
        "dtype",
        "An argument without a derivative (integer, boolean, key) has the cotangent None.",
    ),
    (
        "like the argument",
        "shape",
        "A cotangent must have its argument's shape and dtype.",
    ),
    (
        "forward-mode autodiff (jvp)",
        "unknown",
        "The rule takes a forward-mode derivative of a function with a custom_vjp rule, which has "
        "none: take it of fnnet.plain of that function.",
    ),
    (
        "closed-over value",
        "unknown",
        "The rule closes over a value that is differentiated: make it an argument of the function.",
    ),
)

FORWARD_MODE = (
    "forward-mode differentiation meets the function itself: its fwd calls the registered one. "
    "Let fwd call the plain one, then jax.hessian works"
)


def explain(error: BaseException) -> tuple[str, Detail]:
    """The diagnosis and the words for an exception out of a rule."""
    text = str(error)
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, jax.errors.UnexpectedTracerError):
        words = (
            "A traced value left its trace: the rule closes over a value that is differentiated. "
            "Make it an argument of the function."
        )
        return "unknown", Detail(words=f"{words} {said}", error=said)
    for sign, code, words in _KNOWN:
        if sign in text:
            if code == "shape" and "Cast it where it is computed" in text:
                code = "dtype"
            return code, Detail(words=f"{words} {said}", error=said)
    words = f"The rule raises where autodiff does not: {said}"
    return "unknown", Detail(words=words, error=said)


_LOOP = "Reverse-mode differentiation does not work for lax.while_loop"
# what JAX says of functions that have no derivative, or none in this direction
_WITHOUT_DERIVATIVE = (
    "callback",
    "vmap_method",
    "ffi_call",
    "pallas",
    _LOOP,
    "Linearization failed to produce known values",
)


def by_nature(error: BaseException) -> bool:
    """Whether a rule raises because of what it is made of, and by no mistake in it.

    A callback to the host, a kernel, a loop of unknown length, Python's control flow: their
    gradients are no less right for what cannot be done with them. A shape that does not fit is a
    mistake.
    """
    of_jax = isinstance(error, (NotImplementedError, jax.errors.JAXTypeError))
    return of_jax or any(sign in str(error) for sign in _WITHOUT_DERIVATIVE)


def is_forward_mode(error: BaseException) -> bool:
    """Whether this is JAX's refusal of forward mode through a `custom_vjp`."""
    return "forward-mode autodiff (jvp)" in str(error)


def is_of_a_loop(error: BaseException) -> bool:
    """Whether this is JAX's refusal of reverse mode through a loop of unknown length."""
    return _LOOP in str(error)


def lacks_reverse(error: BaseException) -> bool:
    """Whether JAX says that a rule has no reverse mode: none was written, or JAX allows none."""
    signs = ("Linearization failed to produce known", "for grad support", "Transpose rule")
    return any(sign in str(error) for sign in signs)


def lacks_forward(error: BaseException) -> bool:
    """Whether JAX says that a rule has no forward mode."""
    signs = ("for jvp support", "for linearize support", "Pure callbacks do not support JVP")
    unwritten = isinstance(error, NotImplementedError) and "rule for" in str(error)
    return is_forward_mode(error) or unwritten or any(sign in str(error) for sign in signs)
