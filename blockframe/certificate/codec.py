"""Certificate ↔ JSON.

Numbers that JSON cannot spell are written as the strings ``"Infinity"``, ``"-Infinity"`` and
``"NaN"`` and read back as numbers; in a trajectory's series they are null. Reading is strict:
nothing is converted, ignored or filled in that the schema requires.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_origin

import attrs
from cattrs import Converter, transform_error
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from blockframe.certificate.model import SCHEMA, Certificate, Claim, Subject, Trajectory
from blockframe.errors import CertificateError

NON_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
KEYS = {"class_name": "class"}
"""Field names that are no names in Python, and their JSON keys."""
HIDDEN = {"files"}
"""Fields that are not in the document."""

LONGEST = 64 << 20
"""Characters (of a file: bytes) of the longest document that is read."""
DEEPEST = 100
"""Arrays and objects within one another."""
_MESSAGE = 300

Structure = Callable[[Any, Any], Any]
"""Makes a value of a record out of JSON, given its type."""

_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}
_DAMAGED = "The file is damaged, or it is not a certificate."


def dumps(certificate: Certificate) -> str:
    """The JSON document of ``certificate``, ASCII, ending in a newline.

    Raises:
        CertificateError: a claim carries a value that JSON has no form for.
    """
    document = _document(certificate)
    document["seal"] = certificate.seal or _seal(document)
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def digest(certificate: Certificate) -> str:
    """What `Certificate.seal` must be.

    Raises:
        CertificateError: a claim carries a value that JSON has no form for.
    """
    return _seal(_document(certificate))


def _document(certificate: Certificate) -> dict[str, Any]:
    """Everything but the seal."""
    plain = _plain(_converter().unstructure(certificate), "$")
    del plain["seal"]
    return {
        "schema": plain.pop("schema"),
        "verdict": certificate.verdict.value,
        **plain,
    }


def _seal(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def loads(text: str) -> Certificate:
    """The certificate that ``text`` spells.

    Raises:
        CertificateError: ``text`` is not one; the message gives the JSON path of the first fault.
    """
    if not isinstance(text, str):
        raise CertificateError(
            f"a certificate is read from its JSON text, not from a {type(text).__name__}",
            "Give the contents of the file, a string.",
        )
    if len(text) > LONGEST:
        raise CertificateError(
            f"the certificate has {len(text):,} characters, and {LONGEST:,} are the limit", _DAMAGED
        )
    document = _parse(text)
    if _depth(document) > DEEPEST:
        raise CertificateError("the certificate is nested too deeply", _DAMAGED)
    return _structure(document)


def _parse(text: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
    except RecursionError as error:
        raise CertificateError("the certificate is nested too deeply", _DAMAGED) from error
    except ValueError as error:
        raise CertificateError(
            f"the certificate is not JSON: {_short(str(error))}", _DAMAGED
        ) from error


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        level = [
            inner
            for outer in level
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
    return depth


def _short(text: str) -> str:
    return text if len(text) <= _MESSAGE else text[:_MESSAGE] + "…"


def _structure(document: Any) -> Certificate:
    if not isinstance(document, dict):
        raise _fault("$", f"expected an object, found {_kind(document)}")
    schema = document.get("schema")
    if schema != SCHEMA:
        raise CertificateError(
            f"the certificate's schema is {_short(repr(schema))}; this version reads {SCHEMA!r}",
            "Use the version of blockframe that wrote it, or certify again.",
        )
    if "verdict" not in document:
        raise _fault("$.verdict", "required key missing")
    body = {key: value for key, value in document.items() if key != "verdict"}
    try:
        certificate = _converter().structure(body, Certificate)
    except BaseValidationError as error:
        text, _, path = transform_error(error, "$", _describe)[0].rpartition(" @ ")
        raise _fault(path.replace(".class_name", ".class"), text) from error
    if document["verdict"] != certificate.verdict.value:
        raise CertificateError(
            f"the certificate says {_short(repr(document['verdict']))}, its claims say "
            f"{certificate.verdict.value!r} ($.verdict)",
            "It is forged or damaged.",
        )
    return certificate


@cache
def _converter() -> Converter:
    """The rules of the certificate's JSON form."""
    converter = Converter(forbid_extra_keys=True)

    def container(applies: Callable[[Any], bool], factory: Callable[[Any], Structure]) -> None:
        converter.register_structure_hook_factory(applies, factory)

    def array(type_: Any) -> Structure:
        make, items = get_origin(type_), list_structure_factory(type_, converter)
        return lambda value, _: make(items(_expect(list, value), type_))

    def mapping(type_: Any) -> Structure:
        base = mapping_structure_factory(type_, converter)
        return lambda value, _: base(_expect(dict, value), type_)

    def record(cls: Any) -> Structure:
        base = make_dict_structure_fn(cls, converter, **_changes(cls))
        return lambda value, _: base(_expect(dict, value), cls)

    # A string's hook is an enumeration's, too: cattrs finds hooks by subclass.
    converter.register_structure_hook(str, lambda value, cls: cls(_expect(str, value)))
    converter.register_structure_hook(bool, lambda value, _: _expect(bool, value))
    converter.register_structure_hook(int, lambda value, _: _integer(value))
    converter.register_structure_hook(float, lambda value, _: _real(value))
    converter.register_structure_hook_func(lambda t: t is Any, lambda value, _: _revive(value))
    converter.register_structure_hook_func(
        lambda t: t == (float | str | None), lambda value, _: _rate(value)
    )
    container(lambda t: get_origin(t) in (list, tuple), array)
    container(lambda t: get_origin(t) is dict, mapping)
    container(attrs.has, record)

    series = override(unstruct_hook=_finite_or_null)
    for cls, changed in (
        (Subject, _changes(Subject)),
        (Claim, _changes(Claim)),
        (Trajectory, {"series": series}),
    ):
        converter.register_unstructure_hook(
            cls, make_dict_unstructure_fn(cls, converter, **changed)
        )
    return converter


def _changes(cls: Any) -> dict[str, Any]:
    names = [f.name for f in attrs.fields(cls)]
    renamed = {name: override(rename=KEYS[name]) for name in names if name in KEYS}
    return renamed | {name: override(omit=True) for name in names if name in HIDDEN}


def _plain(value: Any, path: str) -> Any:
    """``value`` in JSON's own types."""
    match value:
        case None | bool():
            return value
        case str():
            return str(value)
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            return _spell(float(value))
        case list() | tuple():
            return [_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
        case Mapping() if all(isinstance(k, str) for k in value):
            return {str(k): _plain(v, f"{path}.{k}") for k, v in value.items()}
    raise CertificateError(
        f"a {type(value).__name__} at {path} has no JSON form",
        "Claims hold numbers, strings, lists, and mappings with string keys.",
    )


def _spell(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _revive(value: Any) -> Any:
    """Free-form JSON with its non-finite numbers read back."""
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, list):
        return [_revive(v) for v in value]
    if isinstance(value, dict):
        return {k: _revive(v) for k, v in value.items()}
    return value


def _finite_or_null(series: Mapping[str, list[float | None]]) -> dict[str, list[float | None]]:
    return {
        name: [v if v is not None and math.isfinite(v) else None for v in values]
        for name, values in series.items()
    }


def _expect(type_: type, value: Any) -> Any:
    if type(value) is not type_:  # exactly: True is no integer here
        raise TypeError(f"expected {_NAMES[type_]}, found {_kind(value)}")
    return value


def _integer(value: Any) -> int:
    number: int = _expect(int, value)
    if abs(number) >= 1 << 63:
        raise ValueError("the integer is too large")
    return number


def _real(value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    if isinstance(value, str) and value in NON_FINITE:
        return NON_FINITE[value]
    raise TypeError(f"expected a number, found {_kind(value)}")


def _rate(value: Any) -> float | str | None:
    if value is None or (isinstance(value, str) and value not in NON_FINITE):
        return value
    return _real(value)


def _kind(value: Any) -> str:
    return _NAMES[type(value)]


def _describe(error: BaseException, _type: type | None) -> str:
    if isinstance(error, KeyError):
        return f"required key {str(error).replace('class_name', 'class')} missing"
    if isinstance(error, ForbiddenExtraKeysError):
        return f"unknown key {', '.join(sorted(map(repr, error.extra_fields)))}"
    return str(error) or type(error).__name__


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"the key {key[:100]!r} stands twice in one object")
        members[key] = value
    return members


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


def _fault(path: str, text: str) -> CertificateError:
    return CertificateError(
        f"the certificate is not valid at {_short(path)}: {_short(text)}", _DAMAGED
    )
