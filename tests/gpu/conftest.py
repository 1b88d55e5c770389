"""Everything below needs a Hopper GPU and is marked so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not hopper:
                item.add_marker(pytest.mark.skip(reason="needs a Hopper GPU, and torch sees none"))
