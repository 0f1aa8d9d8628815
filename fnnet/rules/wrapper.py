"""A function made from another, which pickles, and copies, as functions do: by its name.

A function that `functools.wraps` makes has the name of the one it was made from, and pickle takes
it for that one.
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Wrapper(Generic[P, R]):
    """A callable with the signature, docstring and name of `f`.

    Args:
        f: the function it is made from.
        run: what it does when it is called.
        made_by: the function that makes it from `f` alone; by default it is pickled by the name it
            has in its module.
    """

    def __init__(
        self,
        f: Callable[P, R],
        run: Callable[P, R],
        made_by: Callable[[Callable[P, R]], Callable[P, R]] | None = None,
    ) -> None:
        functools.update_wrapper(self, f)
        self._f, self._run, self._made_by = f, run, made_by

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function."""
        return self._run(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """As a method, where a class holds it."""
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<function {getattr(self, '__qualname__', self._f)}>"

    def __copy__(self) -> Wrapper[P, R]:
        return self

    def __deepcopy__(self, memo: Any) -> Wrapper[P, R]:
        return self

    def __reduce__(self) -> Any:
        if self._made_by is not None:
            return self._made_by, (self._f,)
        module = getattr(self, "__module__", None)
        for name, value in vars(sys.modules.get(str(module), types.SimpleNamespace())).items():
            if value is self:
                return name
        raise pickle.PicklingError(
            f"{getattr(self, '__name__', self)}: a registered function is pickled by its name, and "
            f"the module {module} has no name for it. Give it one there: {module}.NAME = "
            "register(...)"
        )
