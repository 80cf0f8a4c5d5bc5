"""The networks: plain modules whose blocks stand in ``layers``, followed by a linear ``head``.

Shapes: N samples, T steps, F features, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from blockframe_nn import settings
from blockframe_nn.activations import ACTIVATIONS


class Dense(nn.Module):
    """activation(linear(norm(z))), (N, inputs) → (N, width)."""

    def __init__(self, inputs: int, chosen: settings.MLP) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs) if chosen.norm == "layer" else nn.Identity()
        self.linear = nn.Linear(inputs, chosen.width, bias=chosen.bias)
        self.activation = ACTIVATIONS[chosen.activation]()

    def forward(self, z: Tensor) -> Tensor:
        return self.activation(self.linear(self.norm(z)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """z + project(activation(linear(norm(z)))), (N, width) → (N, width)."""

    def __init__(self, chosen: settings.MLP) -> None:
        super().__init__()
        self.branch = Dense(chosen.width, chosen)
        self.project = nn.Linear(chosen.width, chosen.width, bias=chosen.bias)

    def forward(self, z: Tensor) -> Tensor:
        return z + self.project(self.branch(z))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """(N, F) → (N, outputs); with ``residual``, an embedding comes first."""

    def __init__(self, shape: tuple[int], outputs: int, chosen: settings.MLP) -> None:
        super().__init__()
        (inputs,) = shape
        widths = [inputs] + [chosen.width] * chosen.depth
        self.embed: nn.Module = nn.Identity()
        if chosen.residual:
            self.embed = nn.Linear(inputs, chosen.width, bias=chosen.bias)
            self.layers = nn.ModuleList(Residual(chosen) for _ in range(chosen.depth))
        else:
            self.layers = nn.ModuleList(Dense(n, chosen) for n in widths[:-1])
        self.head = nn.Linear(chosen.width, outputs, bias=chosen.bias)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x)
        for layer in self.layers:
            z = layer(z)
        return self.head(z)  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """pool(activation(conv(z))), (N, C, H, W) → (N, channels, H / 2, W / 2)."""

    def __init__(self, inputs: int, pooled: bool, chosen: settings.CNN) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, chosen.channels, 3, padding=1, bias=chosen.bias)
        self.activation = ACTIVATIONS[chosen.activation]()
        pool = nn.MaxPool2d if chosen.pooling == "max" else nn.AvgPool2d
        self.pool = pool(2) if pooled else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        return self.pool(self.activation(self.conv(z)))  # type: ignore[no-any-return]


class CNN(nn.Module):
    """(N, C, H, W) → (N, outputs)."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, chosen: settings.CNN) -> None:
        super().__init__()
        channels, height, width = shape
        self.layers = nn.ModuleList()
        for _ in range(chosen.depth):
            pooled = min(height, width) >= 2
            self.layers.append(Convolution(channels, pooled, chosen))
            channels = chosen.channels
            height, width = (height // 2, width // 2) if pooled else (height, width)
        self.head = nn.Linear(channels * height * width, outputs, bias=chosen.bias)

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for layer in self.layers:
            z = layer(z)
        return self.head(z.flatten(1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """(N, T, F) → (N, outputs), from the last state of the last layer.

    ``cell``: `nn.RNN`, `nn.LSTM` or `nn.GRU`.
    """

    def __init__(
        self,
        cell: Callable[..., nn.Module],
        shape: tuple[int, int],
        outputs: int,
        chosen: settings.Recurrent,
    ) -> None:
        super().__init__()
        widths = [shape[1]] + [chosen.width] * (chosen.depth - 1)
        own = {"nonlinearity": chosen.activation} if isinstance(chosen, settings.Elman) else {}
        self.layers = nn.ModuleList(
            cell(n, chosen.width, bias=chosen.bias, batch_first=True, **own) for n in widths
        )
        self.head = nn.Linear(chosen.width, outputs, bias=chosen.bias)

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for layer in self.layers:
            z, _ = layer(z)
        return self.head(z[:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention of all steps with all, (N, T, width) → (N, T, width)."""

    def __init__(self, chosen: settings.Transformer) -> None:
        super().__init__()
        self.heads = chosen.heads
        self.query, self.key, self.value, self.project = (
            nn.Linear(chosen.width, chosen.width, bias=chosen.bias) for _ in range(4)
        )

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = (
            linear(z).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        mixed = torch.softmax(scores, dim=-1) @ v
        return self.project(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention and MLP, each z + F(norm(z)), or norm(z + F(z)) where ``norm`` is ``post``."""

    def __init__(self, chosen: settings.Transformer) -> None:
        super().__init__()
        width, hidden = chosen.width, chosen.ratio * chosen.width
        self.pre = chosen.norm == "pre"
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(chosen)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden, bias=chosen.bias),
            ACTIVATIONS[chosen.activation](),
            nn.Linear(hidden, width, bias=chosen.bias),
        )

    def forward(self, z: Tensor) -> Tensor:
        if self.pre:
            z = z + self.attention(self.attention_norm(z))
            return z + self.mlp(self.mlp_norm(z))  # type: ignore[no-any-return]
        z = self.attention_norm(z + self.attention(z))
        return self.mlp_norm(z + self.mlp(z))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """(N, T, F) → (N, outputs): embedding, encoder layers, mean over the steps, head."""

    def __init__(self, shape: tuple[int, int], outputs: int, chosen: settings.Transformer) -> None:
        super().__init__()
        steps, features = shape
        self.embed = nn.Linear(features, chosen.width, bias=chosen.bias)
        self.positions = nn.Parameter(0.02 * torch.randn(1, steps, chosen.width))
        self.layers = nn.ModuleList(EncoderLayer(chosen) for _ in range(chosen.depth))
        self.norm = nn.LayerNorm(chosen.width) if chosen.norm == "pre" else nn.Identity()
        self.head = nn.Linear(chosen.width, outputs, bias=chosen.bias)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x) + self.positions
        for layer in self.layers:
            z = layer(z)
        return self.head(self.norm(z).mean(dim=1))  # type: ignore[no-any-return]
