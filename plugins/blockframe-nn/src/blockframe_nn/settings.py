"""What ``--set`` can change, one record per kind of network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from attrs import Attribute, evolve, field, fields, frozen

from blockframe.errors import SpecError
from blockframe.naming import nearest
from blockframe_nn.activations import ACTIVATIONS


def _number(default: int, least: int = 1) -> Any:
    return field(default=default, metadata={"least": least})


def _choice(default: str, choices: Iterable[str]) -> Any:
    return field(default=default, metadata={"choices": tuple(choices)})


@frozen
class MLP:
    """``depth`` layers of ``width``: activation(linear(z)), or z + linear(activation(linear(z))).

    ``norm``: ``layer`` puts a LayerNorm in front of every layer.
    """

    width: int = _number(32)
    depth: int = _number(2)
    activation: str = _choice("tanh", ACTIVATIONS)
    bias: bool = True
    residual: bool = False
    norm: str = _choice("none", ("none", "layer"))


@frozen
class CNN:
    """``depth`` layers of 3 × 3 convolution, activation, 2 × 2 pooling while there is room."""

    channels: int = _number(16)
    depth: int = _number(2)
    activation: str = _choice("gelu", ACTIVATIONS)
    pooling: str = _choice("avg", ("avg", "max"))
    bias: bool = True


@frozen
class Recurrent:
    """``depth`` layers with a state of ``width``; the last state is read out."""

    width: int = _number(32)
    depth: int = _number(1)
    bias: bool = True


@frozen
class Elman(Recurrent):
    """A plain recurrent network, whose activation can be chosen."""

    activation: str = _choice("tanh", ("tanh", "relu"))


@frozen
class Transformer:
    """``depth`` encoder layers: attention with ``heads`` heads, an MLP of ``ratio * width``."""

    width: int = _number(16)
    depth: int = _number(2)
    heads: int = _number(2)
    ratio: int = _number(2)
    activation: str = _choice("gelu", ACTIVATIONS)
    norm: str = _choice("pre", ("pre", "post"))
    bias: bool = True


Settings = MLP | CNN | Recurrent | Transformer
T = TypeVar("T", bound=Settings)


def read(defaults: T, values: Mapping[str, Any], spec: str) -> T:
    """``defaults`` with ``values`` in the place of some.

    Raises:
        SpecError: a name that there is not, or a value that it cannot have.
    """
    known = {f.name: f for f in fields(type(defaults))}
    for name, value in values.items():
        if name not in known:
            close = nearest(name, known)
            raise SpecError(
                f"{spec} has no setting '{name}'",
                (f"Did you mean {', '.join(close)}? " if close else "")
                + f"It has {', '.join(known)}.",
            )
        wanted = _wanted(known[name], value)
        if wanted:
            raise SpecError(f"{spec}: {name} cannot be {value!r}", f"It must be {wanted}.")
    settings = evolve(defaults, **values)
    if isinstance(settings, Transformer) and settings.width % settings.heads:
        raise SpecError(
            f"{spec}: a width of {settings.width} cannot be split into {settings.heads} heads",
            "Choose a width that is a multiple of heads.",
        )
    return settings


def _wanted(setting: Attribute[Any], value: Any) -> str:
    """What ``setting`` must be, or "" if ``value`` is that."""
    if choices := setting.metadata.get("choices"):
        return "" if value in choices else f"one of {', '.join(choices)}"
    if "least" in setting.metadata:
        least = setting.metadata["least"]
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return "" if fits else f"a whole number from {least} on"
    return "" if isinstance(value, bool) else "true or false"
