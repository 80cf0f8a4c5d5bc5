"""Whatever foreign code raises comes out as one error that can be printed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from blockframe.errors import InputError, OutOfMemory
from blockframe.foreign import describe, foreign, out_of_memory
from blockframe.problem import Problem, Request
from blockframe.resolve import as_problem
from blockframe.supply import supply


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Wordless(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


@pytest.mark.parametrize("error", [Mute(), Leaving(), Wordless()])
def test_an_error_that_cannot_say_what_it_is(error: Exception) -> None:
    assert describe(error) == type(error).__name__
    with pytest.raises(InputError, match=f"it raised {type(error).__name__}"):  # noqa: SIM117
        with foreign(lambda what: InputError(f"it raised {what}")):
            raise error


def test_running_out_of_memory_in_any_words() -> None:
    def refuse(what: str) -> InputError:
        raise AssertionError(what)

    with pytest.raises(MemoryError), foreign(refuse):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(MemoryError), foreign(refuse):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(MemoryError), foreign(refuse):
        raise MemoryError
    assert not out_of_memory(RuntimeError("out of luck"))
    text = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB"
    with pytest.raises(OutOfMemory) as caught, foreign(refuse):
        raise torch.OutOfMemoryError(text)
    said = str(caught.value)
    assert said == f"out of memory (CUDA out of memory). {caught.value.remedy}"
    assert "--samples" in caught.value.remedy
    assert out_of_memory(caught.value)


class Exits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(0)


class NoCopy(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise SystemExit(0)


def test_a_forward_that_exits_does_not_end_the_process() -> None:
    problem = Problem(Exits(), (torch.ones(3, 2),))
    with pytest.raises(InputError, match="SystemExit: 0"):
        supply(problem, Request(data="random"))
    with pytest.raises(InputError, match="NoCopy cannot be copied: SystemExit"):
        supply(Problem(NoCopy(2, 1), (torch.ones(3, 2),)), Request(init="he"))


class Number(nn.Module):
    def forward(self, x: Tensor) -> float:
        return 1.0


def test_a_forward_that_gives_no_tensor_gets_no_random_targets() -> None:
    from blockframe.plugins import load_plugins

    with pytest.raises(InputError, match="the output of Number is a float, not a tensor"):
        as_problem((Number(), (torch.ones(3, 2),)), Request(data="random"), load_plugins())
