"""The base class of all settings (frozen, unknown keys refused with a hint); merging and checking of settings."""

from __future__ import annotations

import re
import shlex
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

_KEY_PART = re.compile(r""""[^"]+"|'[^']+'|[^"'.]+""")
"""One part of a dotted key; a part that contains dots is quoted, as in TOML."""


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

    A part that contains a dot is quoted: ``per_model."timm:vgg11.tv_in1k".phase1.lr=3e-4``.

    Raises:
        UsageError: the text does not have this form.
    """
    key, found, value = text.partition("=")
    parts = _KEY_PART.findall(key.strip())
    if not found or not parts or ".".join(parts) != key.strip():
        raise UsageError(f"--set takes KEY=VALUE, not '{text}'")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    nested: Any = parsed
    for part in reversed(parts):
        nested = {part.strip("\"'"): nested}
    return dict(nested)


def override_key(*parts: str) -> str:
    """Return the dotted key of these parts as `parse_override` reads it, quoted for a shell if necessary."""
    return shlex.quote(".".join(f'"{part}"' if "." in part else part for part in parts))


def merge(into: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries in place; later values win, tables are merged key by key."""
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
    return into
