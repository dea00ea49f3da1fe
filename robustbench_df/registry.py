"""A registry filled by a decorator: duplicates raise, and an unknown name's error lists the choices and the nearest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from robustbench_df.errors import UsageError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Named entries of one kind, in the order they were registered.

    ``kind`` is the word used in messages, for example ``"model"``.
    """

    def __init__(self, kind: str, error: type[Exception] = UsageError) -> None:
        self.kind = kind
        self._error = error
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument as ``name``; a name that is taken raises ``ValueError``."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise self._error(
                f"unknown {self.kind} '{name}'{nearest(name, self._entries)}; choose from {', '.join(self._entries)}"
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
