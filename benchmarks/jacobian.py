"""The verified Jacobian of a tiny GPT-2 with Nc = 256, beside a plain one: ``python jacobian.py``.

Sixteen positions (two sequences of eight tokens that begin differently), a vocabulary of 16. The
point has all output projections zero, so that errors do not grow with depth (docs/theory 3).
"""

from __future__ import annotations

import time
from statistics import median

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import blockframe
from blockframe.analysis import Analysis
from blockframe.atoms.catalogue import Catalogue
from blockframe.contract.argument import jacobian, trained
from blockframe.contract.point import Point
from blockframe.contract.rows import rows
from blockframe.plugins import load_plugins
from blockframe.rigor.rank import full_row_rank

REPEATS = 3


def problem() -> blockframe.Problem:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=16, n_positions=8, n_embd=32, n_layer=2, n_head=2)
    config.bos_token_id = config.eos_token_id = None
    model = GPT2LMHeadModel(config).double().eval()
    for name, parameter in model.named_parameters():
        if "c_proj" in name:
            parameter.data.zero_()
        elif parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.3)
    tokens = torch.stack([torch.arange(8), torch.arange(8, 16)])
    return blockframe.Problem(model, (tokens,), output="logits", keywords={"use_cache": False})


def main() -> None:
    given = problem()
    analysis = Analysis.of(given, Catalogue.of(load_plugins().atoms()))
    counted = rows(analysis)
    assert counted is not None
    assert counted.count * counted.outputs == 256
    parameters = {n: p for n, p in given.module.named_parameters() if p.requires_grad}

    def plain() -> torch.Tensor:
        def outputs(*values: torch.Tensor) -> torch.Tensor:
            named = dict(zip(parameters, values, strict=True))
            keywords = {"use_cache": False}
            call = torch.func.functional_call(given.module, named, given.inputs, keywords)
            logits: torch.Tensor = call["logits"]
            return logits.reshape(-1)

        parts = torch.func.jacrev(outputs, tuple(range(len(parameters))))(*parameters.values())
        return torch.cat([p.reshape(256, -1) for p in parts], 1)

    point = Point(given=parameters)
    times: dict[str, list[float]] = {"plain": [], "enclosed": [], "rank": []}
    for _ in range(REPEATS):  # one after the other, so that a busy machine is busy for all
        start = time.process_time()
        matrix = plain()
        times["plain"].append(time.process_time() - start)
        start = time.process_time()
        enclosed = jacobian(analysis, trained(analysis), point, counted)
        times["enclosed"].append(time.process_time() - start)
        assert enclosed is not None
        start = time.process_time()
        proof = full_row_rank(*enclosed)
        times["rank"].append(time.process_time() - start)
    print(f"{tuple(matrix.shape)}, largest radius {float(enclosed[1].max()):.2g}, {proof}")
    for name, seconds in times.items():
        ratio = median(seconds) / median(times["plain"])
        print(f"{name:9s}{median(seconds):8.2f} s{ratio:8.2f}")


if __name__ == "__main__":
    main()
