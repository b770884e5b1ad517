# SPDX-License-Identifier: GPL-2.0-or-later
"""Validation of a YAML file against a schema, with one-line errors that name the key."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dynstack_probe.errors import UsageError

WRONG_TYPE = {
    str: "must be a string; quote it",
    bool: "must be true or false",
    list: "must be a list of strings",
    dict: "must be a mapping",
}


@dataclass(frozen=True)
class Key:
    """The values allowed for a key. In `unknown` {} is the value, then the choices."""

    type: type = str
    default: Any = ""
    choices: Collection[str] = ()  # none: any
    unknown: str = "{} is not one of {}"
    refused: Mapping[Any, str] = field(default_factory=dict)  # value: reason, {} is the value
    unsupported: str = ""  # why the key itself is refused


class RefusalError(Exception):
    """An error in the file; its message lacks the file name."""


def refuse(key: str, reason: str) -> NoReturn:
    raise RefusalError(f"{key if key.isprintable() else ascii(key)}: {reason}")


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Turn a RefusalError into a UsageError prefixed with the file name."""
    try:
        yield
    except RefusalError as refusal:
        raise UsageError(f"{path}: {refusal}") from refusal


def check(section: str, content: object, keys: Mapping[str, Key] | None) -> dict[str, Any]:
    """A section's values, with defaults for missing keys. keys None: any keys, string values."""
    if content is None:
        content = {}
    if not isinstance(content, dict):
        refuse(section or "the file", WRONG_TYPE[dict])
    values = {name: key.default for name, key in (keys or {}).items()}
    for name, value in content.items():
        path = f"{section}.{name}" if section else str(name)
        if not isinstance(name, str):
            refuse(path, "a key must be a string; quote it")
        key = Key() if keys is None else keys.get(name)
        if key is None:
            known = ", ".join(name for name, key in (keys or {}).items() if not key.unsupported)
            refuse(path, f"unknown key; valid keys: {known}")
        values[name] = _check_value(path, value, key)
    return values


def _check_value(path: str, value: object, key: Key) -> object:
    if key.unsupported:
        refuse(path, key.unsupported)
    if value is None:
        return key.default
    items = value if isinstance(value, list) else [value]
    if not isinstance(value, key.type) or (
        key.type is list and not all(isinstance(item, str) for item in items)
    ):
        refuse(path, WRONG_TYPE[key.type])
    if key.type is dict:
        return value
    for item in items:
        if item in key.refused:
            refuse(path, key.refused[item].format(item))
        if item and key.choices and item not in key.choices:
            refuse(path, key.unknown.format(item, ", ".join(key.choices)))
    return value if value != "" else key.default


def load_yaml(path: Path) -> object:
    """The parsed file. Raises UsageError, or RefusalError for a duplicate key."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    try:
        import yaml
    except ImportError:
        raise UsageError(
            f"can't read {path}: PyYAML is missing; apt install python3-yaml, or pip install PyYAML"
        ) from None

    class Loader(yaml.SafeLoader):
        """Refuses duplicate keys; PyYAML would silently use the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen:
                    line = key.start_mark.line + 1
                    refuse(key.value, f"duplicate key on line {line}")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    def construct(loader: Loader, node: Any) -> Any:
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct)
    try:
        return yaml.load(content, Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"{path}: {line}not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
