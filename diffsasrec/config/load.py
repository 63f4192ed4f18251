"""YAML and overrides in, a checked `Config` out; every unknown key is refused."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from diffsasrec.config.config import Config
from diffsasrec.config.secrets import refuse_credentials
from diffsasrec.errors import ConfigError

# YAML 1.1 reads 1e-3 as a string, but people write learning rates that way
_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def load_config(text: str, overrides: Iterable[str] = (), *, source: str = "config") -> Config:
    """Parses YAML `text`, applies `key.path=value` overrides (values are YAML), checks everything.

    Raises:
        ConfigError: names the key, the value and the remedy.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        # not the text of the error: it quotes lines of the file, which may hold a secret
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(f"{source}{where} is not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds {type(values).__name__}, not a mapping of sections")
    for override in overrides:
        _apply(values, override)
    refuse_credentials(values, "")
    if unknown := list(_unknown_keys(values, Config, "")):
        raise ConfigError("; ".join(unknown))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(map(_message, error.errors()))) from None


def _apply(values: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {override}: write it as key.path=value")
    *parents, leaf = path.split(".")
    for parent in parents:
        section = values.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {path}=...: {parent} is a value, not a section")
        values[parent] = dict(section)  # a YAML alias may share it with another section
        values = values[parent]
    try:
        values[leaf] = float(text) if _FLOAT.fullmatch(text) else yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {path}=...: the value is not valid YAML") from None


def _unknown_keys(values: Mapping[str, Any], section: type[BaseModel], path: str) -> Iterable[str]:
    for key, value in values.items():
        field = section.model_fields.get(key)
        if field is None:
            near = difflib.get_close_matches(str(key), list(section.model_fields), n=1, cutoff=0.5)
            hint = f"did you mean {path}{near[0]}" if near else f"known: {sorted(known(section))}"
            yield f"unknown config key {path}{key}; {hint}?"  # its value may be a secret
            continue
        inner, named = section_of(field.annotation), named_section(field.annotation)
        if inner is not None and isinstance(value, dict):
            yield from _unknown_keys(value, inner, f"{path}{key}.")
        if named is not None and isinstance(value, dict):
            for name, each in value.items():
                if isinstance(each, dict):
                    yield from _unknown_keys(each, named, f"{path}{key}.{name}.")


def known(section: type[BaseModel]) -> list[str]:
    return list(section.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class behind a field annotation, or None for a plain value."""
    if get_origin(annotation) is dict:
        return None
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def named_section(annotation: Any) -> type[BaseModel] | None:
    """The section class of the values of a mapping whose keys are free names; else None."""
    return section_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def _message(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{where} is missing; set it in the file or with --set {where}=..."
    return (
        f"{where}={error['input']!r}: {text}" if where and error["type"] != "value_error" else text
    )


def leaf_keys(section: type[BaseModel] = Config, path: str = "") -> Iterable[tuple[str, Any]]:
    """Every key of the configuration with its field, depth first: ("score.k", FieldInfo)."""
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None:
            yield f"{path}{name}", field
        else:
            yield from leaf_keys(inner, f"{path}{name}.")
