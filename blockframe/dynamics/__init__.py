"""Gradient descent, and what is measured along it.

``losses``, ``probes`` and ``inequalities`` are plain Python; the other rooms import torch.
"""
