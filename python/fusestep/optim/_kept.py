"""What is kept for an optimizer and must not be seen in it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """A value for each object, as long as the object lives; whatever it thinks of ``==`` and ``hash``.

    A value must not reach its object, or neither will ever be freed.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._values: dict[int, tuple[weakref.ref[Any], T]] = {}

    def of(self, owner: Any) -> T:
        """The value of an object, made when it is first asked for."""
        known = self._values.get(id(owner))
        if known is not None and known[0]() is owner:
            return known[1]
        value = self._make(owner)
        self.put(owner, value)
        return value

    def put(self, owner: Any, value: T) -> None:
        """Another value for an object."""
        key, values = id(owner), self._values
        values[key] = weakref.ref(owner, lambda _: values.pop(key, None)), value
