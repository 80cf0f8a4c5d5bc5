"""Settings of every test of this repository."""

from __future__ import annotations

import os

import torch

# The tensors of tests are small: a second thread costs more than it brings.
torch.set_num_threads(1)

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""As the command line sets it: without it CUDA's sums of products are not repeatable."""
