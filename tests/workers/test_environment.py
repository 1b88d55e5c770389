from __future__ import annotations

import pytest
import torch

from workers.environment import capture


def test_a_worker_says_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SECRET_TOKEN", "must not be stored")
    here = capture(torch.device("cpu"), "0123456789abcdef")
    assert (here.device, here.device_uuid, here.driver, here.nccl) == ("cpu", None, None, None)
    assert here.torch == torch.__version__
    assert here.cpu
    assert here.variables["NCCL_ALGO"] == "Tree"
    assert "SECRET_TOKEN" not in here.variables
    assert here.visible_devices == ""


def test_another_kernel_build_is_another_stratum() -> None:
    cpu = torch.device("cpu")
    assert capture(cpu, "a" * 20).stratum != capture(cpu, "b" * 20).stratum
    assert capture(cpu, "a" * 20).stratum == capture(cpu, "a" * 20).stratum
