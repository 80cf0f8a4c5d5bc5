"""Certify a model of your own, and read what is wrong with it.

python examples/own_model.py
"""

import torch
from torch import nn

import blockframe


class Classifier(nn.Module):
    """Two layers; ``activation`` decides whether the contract can hold."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), activation, nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    y = x[:, :3].argmax(dim=1)
    for activation in (nn.ReLU(), nn.GELU()):
        cert = blockframe.certify((Classifier(activation), (x,), y), loss="ce", steps=10)
        claim = cert.claim("analyticity")
        print(f"{activation}: {cert.verdict}; analyticity {claim.verdict}: {claim.statement}")
        for finding in claim.findings:
            print(f"  {finding.code} {finding.message}")
            print(f"    at   {finding.module}  {finding.location}")
            print(f"    seen {finding.witness}")
            print(f"    help {finding.help}")


if __name__ == "__main__":
    main()
