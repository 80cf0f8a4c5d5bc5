"""Gradient descent step by step, with the quantities that the theory speaks about.

python examples/descend.py
"""

import torch
from torch import nn

import blockframe


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(24, 4)
    y = torch.sin(x.sum(dim=1, keepdim=True))
    lr = 0.1
    print("step  loss      sharpness  lr · sharpness / 2")
    for it in blockframe.descend((model, (x,), y), lr=lr, steps=10, probes=["sharpness"]):
        sharpness = it["sharpness"]
        print(f"{it.step:4d}  {it.loss:.6f}  {sharpness:9.4f}  {lr * sharpness / 2:.4f}")


if __name__ == "__main__":
    main()
