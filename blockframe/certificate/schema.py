"""schema.json, derived from the records: ``python -m blockframe.certificate.schema`` writes it."""

from __future__ import annotations

import inspect
import json
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from blockframe.certificate.codec import HIDDEN, KEYS, NON_FINITE
from blockframe.certificate.model import SCHEMA, Certificate, Outcome

PATH = Path(__file__).with_name("schema.json")

_PRIMITIVES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"anyOf": [{"type": "number"}, {"enum": list(NON_FINITE)}]},
    NoneType: {"type": "null"},
    Any: {},
}


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a certificate."""
    definitions: dict[str, dict[str, Any]] = {}
    top = _record(Certificate, definitions)
    top["properties"] = {
        "schema": {"const": SCHEMA},
        "verdict": _type(Outcome, definitions),
        **{k: v for k, v in top["properties"].items() if k != "schema"},
    }
    top["required"] = ["schema", "verdict", *top["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def text() -> str:
    """What schema.json must contain."""
    return json.dumps(schema(), indent=2) + "\n"


def _record(cls: Any, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    names = {f: KEYS.get(f.name, f.name) for f in attrs.fields(cls) if f.name not in HIDDEN}
    return {
        "type": "object",
        "description": inspect.cleandoc(cls.__doc__ or "").partition("\n")[0],
        "properties": {names[f]: _type(hints[f.name], definitions) for f in names},
        "required": [names[f] for f in names if f.default is attrs.NOTHING],
        "additionalProperties": False,
    }


def _type(type_: Any, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if type_ in _PRIMITIVES:
        return _PRIMITIVES[type_]
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        return {"anyOf": [_type(a, definitions) for a in arguments]}
    if origin in (list, tuple):
        return {"type": "array", "items": _type(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1], definitions)}
    if type_.__name__ not in definitions:
        definitions[type_.__name__] = (
            {"enum": [member.value for member in type_]}
            if issubclass(type_, Enum)
            else _record(type_, definitions)
        )
    return {"$ref": f"#/$defs/{type_.__name__}"}


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    print(PATH)
