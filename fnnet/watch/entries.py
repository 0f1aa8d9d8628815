"""Where calls of hand-written rules come in: the `__call__` of JAX's classes for them.

While somebody watches, each of these classes has a `__call__` that tells the watchers of the call
and then does what it did. It stands on the classes, so that rules decorated long before are seen,
and is taken away when the last watcher leaves. A compiled program calls nothing in Python: so JAX's
caches are cleared when a watcher comes, and what was traced before is traced again; and when it
leaves, so that no program is left that still hands values over.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import hijax

from fnnet.check.case.kinds import HIJAX
from fnnet.rules.origin import is_foreign_class

# (x, kind, args, kwargs) -> the arguments to call with
Watcher = Callable[[Any, str, tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]

_CLASSES: tuple[tuple[Any, str], ...] = (
    (jax.custom_vjp, "custom_vjp"),
    (jax.custom_jvp, "custom_jvp"),
    (vars(hijax).get("HiPrim") or vars(hijax)["VJPHiPrimitive"], HIJAX),  # JAX 0.12 or 0.10
)
_lock = threading.RLock()
_watchers: list[Watcher] = []
_originals: list[Any] = []
_away = threading.local()


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Have `watcher` told of every call of a rule, in every thread."""
    with _lock:
        if not _watchers:
            _install()
        _watchers.append(watcher)
    jax.clear_caches()
    try:
        yield
    finally:
        with _lock:
            _watchers.remove(watcher)
            if not _watchers:
                _uninstall()
        jax.effects_barrier()
        jax.clear_caches()


@contextmanager
def looking_away() -> Iterator[None]:
    """Not to be told of this thread's calls: those that a check itself makes."""
    before = getattr(_away, "on", False)
    _away.on = True
    try:
        yield
    finally:
        _away.on = before


def _install() -> None:
    for cls, kind in _CLASSES:
        original = cls.__call__
        _originals.append(original)
        cls.__call__ = _telling(original, kind)


def _uninstall() -> None:
    for cls, _ in reversed(_CLASSES):
        cls.__call__ = _originals.pop()


def _telling(original: Any, kind: str) -> Any:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # JAX makes hijax primitives of its own of what is a custom_vjp: told of once, as that
        if not getattr(_away, "on", False) and (kind != HIJAX or is_foreign_class(self)):
            for watcher in tuple(_watchers):
                args = watcher(self, kind, args, kwargs)
        return original(self, *args, **kwargs)

    return call
