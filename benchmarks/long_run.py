"""Long runs: what they take of memory, and whether one that is killed goes on as if nothing was.

``python benchmarks/long_run.py memory`` runs `blockframe certify` on a small MLP for 1,000, 5,000
and 20,000 steps, each in a process of its own, and prints the peak of its resident memory; with
``--in-memory`` without ``--out``, for comparison.

``python benchmarks/long_run.py kill`` kills a run of 300 steps with signal 9 at 20 random moments,
goes on with ``--resume`` each time, and compares the certificate with that of a run that nobody
killed: same series, inequalities, summary and claims, to the last bit. It ends with 1 if they
differ. ``--steps``, ``--kills`` and ``--seed`` take other numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

SPEC = f"{Path(__file__).resolve()}:net"
CERTIFY = (sys.executable, "-m", "blockframe", "certify", SPEC, "--lr", "0.05")


def net() -> tuple[nn.Module, tuple[torch.Tensor, ...], torch.Tensor]:
    """8-16-16-3, tanh, 32 samples."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)]
    return nn.Sequential(*layers), (torch.randn(32, 8),), torch.randn(32, 3)


def memory(lengths: Sequence[int], in_memory: bool) -> None:
    print(f"{'steps':>7} {'steps/s':>8} {'peak MB':>8} {'journal MB':>11} {'certificate MB':>15}")
    for steps in lengths:
        with tempfile.TemporaryDirectory() as directory:
            command = [*CERTIFY, "--steps", str(steps)]
            command += ["--format", "json"] if in_memory else ["--out", directory]
            began = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.monotonic() - began
            assert os.waitstatus_to_exitcode(status) in (0, 3)
            sizes = {p.suffix: p.stat().st_size / 1e6 for p in Path(directory).iterdir()}
            print(
                f"{steps:>7,} {steps / seconds:>8.0f} {used.ru_maxrss / 1024:>8.0f}"
                f" {sizes.get('.jsonl', 0):>11.1f} {sizes.get('.json', 0):>15.2f}", flush=True,
            )  # fmt: skip


def kill(steps: int, kills: int, seed: int) -> int:
    """How many parts of the certificate differ."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name, "whole"), Path(name, "broken")
        command = [*CERTIFY, "--steps", str(steps), "--out"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*command, str(whole)], check=False, **quiet)
        at = sorted(moments.randrange(1, steps) for _ in range(kills))
        for number, step in enumerate(at, 1):
            process = subprocess.Popen([*command, str(broken), "--resume"], **quiet)
            while process.poll() is None and rows(broken) <= step:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            status = process.wait()
            ended = "" if status == -signal.SIGKILL else " (it had ended)"
            print(
                f"kill {number:>2}: {rows(broken) - 1:>3} steps in the journal{ended}", flush=True
            )
        subprocess.run([*command, str(broken), "--resume"], check=False, **quiet)
        expected, found = (parts(directory) for directory in (whole, broken))
    differ = [key for key in expected if expected[key] != found[key]]
    series = expected["series"]
    verdict = f"differ: {', '.join(differ)}" if differ else "identical"
    print(f"{len(series)} series of {len(series['loss'])} iterates, and {len(expected) - 1} other "
          f"parts of the certificate: {verdict}")  # fmt: skip
    return len(differ)


def rows(directory: Path) -> int:
    """Lines of the journal there, its first one not counted."""
    return sum(p.read_bytes().count(b"\n") - 1 for p in directory.glob("*.jsonl"))


def parts(directory: Path) -> dict[str, Any]:
    (path,) = directory.glob("*.cert.json")
    document = json.loads(path.read_text("utf-8"))
    return {**document.pop("trajectory"), **document}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "kill"])
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--steps", type=int, nargs="*")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "memory":
        memory(given.steps or [1_000, 5_000, 20_000], given.in_memory)
        return 0
    return min(kill((given.steps or [300])[0], given.kills, given.seed), 1)


if __name__ == "__main__":
    sys.exit(main())
