"""What is told of a unit that failed on a GPU."""

from __future__ import annotations

import subprocess
import sys

BROKEN = """
import torch
from workers.failure import told

class Worker:
    @told
    def run(self, index):
        found = torch.zeros(4, device="cuda")[torch.tensor([index], device="cuda")]
        torch.cuda.synchronize()
        raise RuntimeError(f"found {found.item()}")

print(Worker().run(1).broken, Worker().run(10).broken, Worker().run(1).broken)
"""


def test_a_kernel_that_broke_its_context_is_told_from_an_error() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["False", "True", "True"], done.stderr[-2000:]
