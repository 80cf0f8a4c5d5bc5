"""Settings of every test of this repository."""

from __future__ import annotations

import os

# The tensors of tests are small: a second thread costs more than it brings, also in the processes
# that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As the command line sets it: without it CUDA's sums of products are not repeatable.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

torch.set_num_threads(1)
