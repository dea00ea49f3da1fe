"""The base of all settings: frozen, unknown keys refused with a hint; their merging, checking and writing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_df.errors import UsageError, nearest

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """Base of all settings: frozen, no extra keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


def validated(kind: type[S], values: Mapping[str, Any]) -> S:
    """Validate ``values`` as settings of ``kind``; the first problem becomes one `UsageError` line."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = known_keys(kind)
            raise UsageError(f"unknown setting '{path}'{nearest(path, known)}") from error
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{path}: {message}" if path else message) from error


def known_keys(kind: type[Settings], prefix: str = "") -> list[str]:
    """List every dotted key of a settings class."""
    keys = []
    for name, info in kind.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            keys += known_keys(info.annotation, f"{prefix}{name}.")
    return keys


def parse_override(text: str) -> dict[str, Any]:
    """Return the nested dictionary that ``key.path=value`` stands for.

    Raises:
        UsageError: it has another form.
    """
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise UsageError(f"--set takes KEY=VALUE, not '{text}'")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    nested: Any = parsed
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return dict(nested)


def merge(into: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries in place; later values win, tables are merged key by key."""
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
    return into


def dump(settings: Settings) -> str:
    """Return settings as indented JSON."""
    return json.dumps(settings.model_dump(mode="json"), indent=2) + "\n"
