"""The page that lists every key of the configuration, made from the models themselves.

`make docs` writes it to docs/configuration.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from diffsasrec.config.config import Config
from diffsasrec.config.load import leaf_keys

# the keys that matter for a first night on another log, in the order in which people meet them
BASIC = (
    "lake",
    "events.path",
    "events.table",
    "events.format",
    "events.user_column",
    "events.item_column",
    "events.time_column",
    "events.time_unit",
    "events.partition_column",
    "events.max_bad_fraction",
    "split.min_item_count",
    "items.path",
    "items.title_column",
    "train.num_workers",
    "train.gpus_per_worker",
    "score.k",
    "score.filter_seen",
    "score.deny_path",
    "score.allow_path",
    "score.num_actors",
    "score.gpus_per_actor",
    "gate.floors",
    "gate.max_relative_drop",
)

PREFACE = """\
# Configuration

<!-- Made by `make docs` from diffsasrec/config/. Change the models there, not this page. -->

A configuration is one YAML file of sections. `--set key.path=value` overrides a key on the command
line, as often as you like. `--print-config` prints the resolved configuration and its sha256.

- Only `lake` and one of `events.path` and `events.table` are required.
- An unknown key is refused with the nearest known one; a value out of range with the key, the value
  and the remedy. Both end the command with exit code 2.
- A file holds no credentials. The usual AWS variables or the instance profile bring them.
- `null` means "not set". The meaning of the key says what happens then.

What the words mean: [concepts](concepts.md). A file to start from: `jobs/demo.yaml` for a laptop,
`jobs/nightly.yaml` for a cluster.
"""

HEAD = "| key | default | allowed | meaning |\n|---|---|---|---|\n"


def configuration_page() -> str:
    """docs/configuration.md: the basic keys first, then all others by section."""
    rows = {key: _row(key, field, allowed) for key, field, allowed in _keys()}
    others = [key for key in rows if key not in BASIC]
    parts = [f"{PREFACE}\n## Basic keys\n\n{HEAD}{''.join(rows[key] for key in BASIC)}"]
    for section, keys in groupby(others, key=_section):
        parts.append(f"\n## {section}\n\n{HEAD}{''.join(rows[key] for key in keys)}")
    return "".join(parts)


def _keys() -> Iterator[tuple[str, Any, str]]:
    """Every key with its field and what is allowed, in words."""
    schema = Config.model_json_schema()
    fields = dict(leaf_keys())
    for key, node in _leaves(schema, schema["$defs"], ""):
        yield key, fields[key], _allowed(node)


def _leaves(
    node: Mapping[str, Any], definitions: Mapping[str, Any], path: str
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for name, inner in node["properties"].items():
        if "$ref" in inner:
            section = definitions[inner["$ref"].rpartition("/")[2]]
            yield from _leaves(section, definitions, f"{path}{name}.")
        else:
            yield f"{path}{name}", inner


def _section(key: str) -> str:
    return key.partition(".")[0] if "." in key else "All nights"


def _row(key: str, field: Any, allowed: str) -> str:
    shown = "required" if field.is_required() else f"`{_yaml(field.default)}`"
    return f"| `{key}` | {shown} | {allowed} | {field.description} |\n"


def _yaml(value: Any) -> str:
    """A default as it is written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == ():
        return "[]"
    return '""' if value == "" else str(value)


def _allowed(node: Mapping[str, Any]) -> str:
    """What the JSON schema of a value allows, in words."""
    if "anyOf" in node:
        return " or ".join(_allowed(choice) for choice in node["anyOf"])
    if "$ref" in node:  # the description of the key has its keys
        return "a section"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    kind = node["type"]
    if kind == "array":
        return f"list of: {_allowed(node['items'])}"
    if kind == "object":
        return f"mapping of names to: {_allowed(node['additionalProperties'])}"
    if kind in ("integer", "number"):
        return _between("whole number" if kind == "integer" else "number", node)
    if node.get("format") == "date-time":
        return "time"
    return {"string": "text", "boolean": "`true`, `false`", "null": "`null`"}[kind]


def _between(what: str, node: Mapping[str, Any]) -> str:
    """Numbers between the bounds of a JSON schema, for example 0 <= number < 1."""
    above = {"minimum": ">=", "exclusiveMinimum": ">"}
    below = {"maximum": "<=", "exclusiveMaximum": "<"}
    low = [(sign, node[name]) for name, sign in above.items() if name in node]
    high = [f" {sign} {node[name]:g}" for name, sign in below.items() if name in node]
    if low and high:
        sign, bound = low[0]
        return f"{bound:g} {sign.replace('>', '<')} {what}{high[0]}"
    return what + "".join(f" {sign} {bound:g}" for sign, bound in low) + "".join(high)
