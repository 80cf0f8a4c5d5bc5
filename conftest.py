"""Settings of every test of this repository."""

from __future__ import annotations

import torch

# The tensors of tests are small: a second thread costs more than it brings.
torch.set_num_threads(1)
