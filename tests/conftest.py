"""One Ray for the whole session, and a home of its own for everything that the farm writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.cluster import Cluster, connect
from orchestrator.run_folder import RunFolder
from orchestrator.store import Store

with suppress(ModuleNotFoundError):  # tests/gpu needs no Hypothesis
    from hypothesis import settings

    # How long an example takes says nothing on a machine that does other work beside.
    settings.register_profile("farm", deadline=None)
    settings.load_profile("farm")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that starts empty. The cache of built kernels alone stays the user's, since it is keyed by content."""
    from workers.build import cache_folder

    folder = tmp_path_factory.mktemp("home")
    (folder / "scratch").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_CACHE_DIR", str(cache_folder().parent))
        patch.setenv("HOME", str(folder))
        for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "FARM_DATABASE_URL", "FARM_RUNS_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("FARM_TEST_SCRATCH", str(folder / "scratch"))
        yield folder


@pytest.fixture(scope="session")
def cluster(home: Path) -> Iterator[Cluster]:
    """The session's only embedded Ray."""
    with connect(None) as connected:
        yield connected


@pytest.fixture
def scratch() -> Path:
    """A folder that targets on Ray workers see too."""
    return Path(os.environ["FARM_TEST_SCRATCH"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'farm.db'}") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")
