"""Where a trajectory runs and in which floating point numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import deterministic as filling
from torch.utils._python_dispatch import TorchDispatchMode

from blockframe.errors import InputError

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}

_FILLS = "fill_uninitialized_memory"  # a property of the module, which type checkers do not see


@frozen
class Arithmetic:
    """A device, and the dtype that the network is evaluated in.

    θ, gradients and everything that is concluded from them are float64; losses are computed from
    outputs that are widened to float32 at least (`widened`). The float types of half precision
    have a unit roundoff of 2^-8 (bfloat16) and 2^-11 (float16), so most inequalities between their
    losses are decided by rounding, and are not known. The gradient of a float16 network is 0 where
    it falls below 6e-8; nothing scales the loss to avoid that.
    """

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def named(
        cls, device: str | torch.device | None = "auto", dtype: str | torch.dtype | None = None
    ) -> Arithmetic:
        """``auto`` and None: CUDA where there is one; dtype None: float64 on CPU, float32 on CUDA.

        Raises:
            InputError: a name that does not exist here.
        """
        place = _device("auto" if device is None else device)
        default = "float64" if place.type == "cpu" else "float32"
        name = str(default if dtype is None else dtype).removeprefix("torch.")
        if name not in _DTYPES:
            raise InputError(f"no trajectory runs in dtype {name!r}", f"Take {', '.join(_DTYPES)}.")
        return cls(place, _DTYPES[name])

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return str(self.device)

    @property
    def unit_roundoff(self) -> float:
        """Half the distance from 1 to the next number."""
        return torch.finfo(self.dtype).eps / 2

    @property
    def wider(self) -> str:
        """What to do where numbers are too large, or too small, for this arithmetic."""
        if self.half:
            return "Take --dtype float32 or float64."
        return "Look at the weights and the data; they must be finite and of sensible size."

    @property
    def half(self) -> bool:
        """Whether the network is evaluated in half precision."""
        return self.dtype.itemsize == 2

    def widened(self, outputs: Tensor) -> Tensor:
        """Outputs as the loss takes them: in float32 instead of half precision.

        A sum of thousands of terms in bfloat16 would stop growing at 256 times the first one.
        """
        return outputs.float() if outputs.dtype.itemsize == 2 else outputs

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Full-precision, twice differentiable, deterministic kernels; the process's own settings
        come back.

        No TF32 or bfloat16 inside float32 products, and sums of half precision products in float32;
        attention in plain operations and no cuDNN, because their fused kernels have no second
        derivative. Where an operation has no deterministic kernel, PyTorch warns. cuBLAS is
        deterministic if the environment variable ``CUBLAS_WORKSPACE_CONFIG`` is ``:4096:8``, which
        the command line sees to.
        """
        backends: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
        matmuls = [b.matmul for b in backends]
        before = [m.fp32_precision for m in matmuls]
        with (
            torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH),
            _deterministic(), _sums_in_float32(),
        ):  # fmt: skip
            for m in matmuls:
                m.fp32_precision = "ieee"
            try:
                yield
            finally:
                for m, precision in zip(matmuls, before, strict=True):
                    m.fp32_precision = precision

    @contextmanager
    def randomness(self, seed: int) -> Iterator[None]:
        """A network that draws random numbers in evaluation mode draws the same ones each time."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield


@contextmanager
def _deterministic() -> Iterator[None]:
    """The same numbers from the same seed; no memory is filled for that."""
    enabled = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = getattr(filling, _FILLS)
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(filling, _FILLS, False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=only_warns)
        setattr(filling, _FILLS, fills)


@contextmanager
def _sums_in_float32() -> Iterator[None]:
    """cuBLAS may otherwise add up parts of a product in half precision."""
    matmul = torch.backends.cuda.matmul
    names = (
        "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction",
    )  # fmt: skip
    before = {name: getattr(matmul, name) for name in names}
    for name in names:
        setattr(matmul, name, False)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)


class IdentityCasts(TorchDispatchMode):
    """Casts between floating types are the identity (docs/theory, notation).

    Many networks cast to float32 inside, for a norm or a softmax. A run in float64 would lose half
    its digits there, and the inequalities would be decided by that noise. Under this mode a request
    for a narrower floating type gives the working type.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype
        floating = (torch.float32, torch.bfloat16, torch.float16)
        self._narrower = frozenset(t for t in floating if t.itemsize < dtype.itemsize)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") in self._narrower:
            kwargs = {**kwargs, "dtype": self._dtype}
        return func(*args, **kwargs)


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = name if isinstance(name, torch.device) else None
    if isinstance(name, str):  # a bare number would be a CUDA device
        try:
            device = torch.device(name)
        except RuntimeError:
            device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"no trajectory runs on device {name!r}", "Take auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{name}' is not there: {torch.cuda.device_count()} CUDA devices are visible",
            "Take auto or cpu.",
        )
    return device
