# SPDX-License-Identifier: GPL-2.0-or-later
"""A YAML file checked by a table of its keys, and how what is wrong with it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dynstack_probe.errors import UsageError

WRONG_TYPE = {
    str: "must be a text; put it in quotes",
    bool: "must be true or false",
    list: "must be a list of texts",
    dict: "must be a mapping of keys to values",
}


@dataclass(frozen=True)
class Key:
    """What a key's value may be. In `unknown` {} is the value, then its choices."""

    type: type = str
    default: Any = ""
    choices: Collection[str] = ()  # none: any
    unknown: str = "{} is not one of {}"
    refused: Mapping[Any, str] = field(default_factory=dict)  # by value: why, {} is the value
    never: str = ""  # why the key itself is refused


class RefusalError(Exception):
    """What is wrong with the file, without its name."""


def refuse(key: str, reason: str) -> NoReturn:
    raise RefusalError(f"{key if key.isprintable() else ascii(key)}: {reason}")


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Turn a RefusalError into a UsageError, one line that begins with the file."""
    try:
        yield
    except RefusalError as refusal:
        raise UsageError(f"{path}: {refusal}") from refusal


def check(section: str, content: object, keys: Mapping[str, Key] | None) -> dict[str, Any]:
    """A section's values, by default those left out; any texts where keys is None."""
    if content is None:
        content = {}
    if not isinstance(content, dict):
        refuse(section or "the file", WRONG_TYPE[dict])
    values = {name: key.default for name, key in (keys or {}).items()}
    for name, value in content.items():
        path = f"{section}.{name}" if section else str(name)
        if not isinstance(name, str):
            refuse(path, "a key must be a text: put it in quotes")
        key = Key() if keys is None else keys.get(name)
        if key is None:
            known = ", ".join(name for name, key in (keys or {}).items() if not key.never)
            refuse(path, f"unknown key; known here are {known}")
        values[name] = _check_value(path, value, key)
    return values


def _check_value(path: str, value: object, key: Key) -> object:
    if key.never:
        refuse(path, key.never)
    if value is None:
        return key.default
    ones = value if isinstance(value, list) else [value]
    if not isinstance(value, key.type) or (
        key.type is list and not all(isinstance(one, str) for one in ones)
    ):
        refuse(path, WRONG_TYPE[key.type])
    if key.type is dict:
        return value
    for one in ones:
        if one in key.refused:
            refuse(path, key.refused[one].format(one))
        if one and key.choices and one not in key.choices:
            refuse(path, key.unknown.format(one, ", ".join(key.choices)))
    return value if value != "" else key.default


def load_yaml(path: Path) -> object:
    """What is in the file. Raises UsageError, or RefusalError for a key that is there twice."""
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
        """Refuses a key that is there twice, of which YAML would take the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen:
                    line = key.start_mark.line + 1
                    refuse(key.value, f"given twice, again in line {line}")
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
        raise UsageError(f"{path}: {line}not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
