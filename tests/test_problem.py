"""What is no problem is refused in one sentence, with a remedy."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from blockframe.errors import InputError
from blockframe.problem import Problem

X = torch.ones(3, 2)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def repeated() -> nn.Module:
    """Its weight has three numbers in memory, and six entries."""
    module = nn.Linear(3, 2)
    module.weight = nn.Parameter(module.weight.data[:1].expand(2, 3))
    return module


def sparse(*, buffer: bool = False) -> nn.Module:
    module = nn.Linear(3, 2)
    if buffer:
        module.register_buffer("mask", torch.eye(2).to_sparse())
    else:
        module.weight = nn.Parameter(module.weight.data.to_sparse())
    return module


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"module": nn.LazyLinear(2)}, r"weight of the LazyLinear is not initialized.* Call the"),
        ({"module": nn.Sequential(nn.LazyBatchNorm1d())}, r"0\.\w+ of the Sequential is not init"),
        ({"module": 3}, "a int is not a torch.nn.Module"),
        ({"inputs": X}, "inputs must be a tuple of tensors"),
        (
            {"inputs": (X.to_sparse(),)},
            r"input 0 is not dense but sparse_coo. Give tensor.to_dense",
        ),
        ({"inputs": (X, X.to_sparse())}, "input 1 is not dense but sparse_coo"),
        ({"inputs": (NESTED,)}, "input 0 is a nested tensor. Pad it"),
        ({"targets": X.to_sparse()}, "targets tensor is not dense but sparse_coo"),
        ({"targets": X.to("meta")}, "targets tensor is on the meta device and holds no numbers"),
        ({"targets": [1, 2]}, "targets must be a tensor or None"),
        ({"keywords": None}, "keywords must be a mapping, not None. Give a dict"),
        ({"keywords": [("mask", X)]}, "keywords must be a mapping, not"),
        ({"keywords": {1: X}}, "keywords has the key 1, which is not a string"),
        ({"keywords": {"masks": [X]}}, "keyword 'masks' holds tensors inside a list. Wrap"),
        ({"keywords": {"a": {"b": (1, X)}}}, "keyword 'a' holds tensors inside a dict"),
        ({"keywords": {"mask": X.to_sparse()}}, "keyword 'mask' is not dense"),
        ({"keywords": {"mask": X.to("meta")}}, "keyword 'mask' is on the meta device"),
        ({"loss": 5}, "loss must be a string, not 5"),
        ({"output": True}, "output must be a key, an index or None, not True"),
        ({"output": 1.5}, "output must be a key"),
        ({"proxy": 3}, "proxy is int. Give a Problem"),
        ({"module": repeated()}, "entries of parameter weight share memory"),
        ({"module": sparse()}, "^parameter weight is not dense but sparse_coo. Give tensor.to_d"),
        ({"module": sparse(buffer=True)}, "^buffer mask is not dense but sparse_coo"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {"module": nn.Linear(2, 2), "inputs": (X,), **changed}
    with pytest.raises(InputError, match=says):
        Problem(**fields)


def test_what_is_not_refused() -> None:
    lazy = nn.LazyLinear(2)
    lazy(X)
    constants = {"mask": X, "sizes": [1, 2], "mode": "sum", "none": None}
    Problem(lazy, (X,), X, keywords=constants, output=0)
    meta = nn.Linear(2, 2, device="meta")
    assert not Problem(meta, (X.to("meta"),), X.to("meta")).has_weights
