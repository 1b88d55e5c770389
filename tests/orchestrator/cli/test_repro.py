"""`farm repro` of a run that really flipped: the nano model on one rank, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.execute import conclude
from orchestrator.plan import make_plan
from orchestrator.report.words import group_words
from orchestrator.run_folder import RunFolder
from orchestrator.store import Store
from specs.device import Device
from specs.errors import ExitCode
from specs.result import RunRecord
from specs.unit import Capacity, ModelUnit
from tests.orchestrator.builders import model_job
from tests.orchestrator.cli.farm import farm
from tests.orchestrator.cli.stored import stored as stored
from workers.model_runner import ModelRunner


@pytest.fixture(scope="module")
def home_of_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("flipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_DATABASE_URL", f"sqlite:///{folder}/farm.db")
        patch.setenv("FARM_RUNS_DIR", f"{folder}/runs")
        yield


@pytest.fixture(scope="module")
def flipped(home_of_run: None) -> RunRecord:
    # Its split of K depends on the rows: another one for two prompts of 400 tokens in a step than for one, every time.
    target = {"name": "ordered", "gemm": "streamk-ordered", "collective": "ordered", "deterministic": True}
    long: dict[str, Any] = {"prefix_lengths": [400], "long_prompt_tokens": 400, "pages": 256}
    targets = [target | {"expect": "nondeterministic"}]
    job = model_job(targets=targets, modes=["prefix"], trials=2, trace=True, **long)
    plan = make_plan(job, Capacity(device=Device.CPU, workers=1, cpus_per_worker=1, gpus_per_worker=0))
    (unit,) = plan.units
    assert isinstance(unit, ModelUnit)
    with Store.open() as store:
        record = store.create_run(plan, farm_version="0")
        outputs = ModelRunner(job, job.targets[0], 0, torch.device("cpu")).run(unit, 1, {})
        folder = RunFolder(record.folder)
        for name, content in outputs.artefacts.items():
            folder.save_operation(name, content)
        store.record_result(record.id, outputs.result)
        return conclude(store, folder, record.id)


def test_the_folder_shows_the_flip_again(flipped: RunRecord, tmp_path: Path) -> None:
    assert flipped.judgement is not None
    (verdict,) = flipped.judgement.verdicts
    folder = tmp_path / "shown"
    code, out, err = farm("repro", flipped.id, "prefix", "--output", str(folder))
    assert (code, err) == (0, "")
    assert out.startswith(f"{group_words(verdict)} parted at layers.") and f"python {folder}/repro.py" in out
    divergence = json.loads((folder / "divergence.json").read_text())
    assert divergence["implementation"] == "farm:streamk-ordered"
    (environment,) = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    ran = subprocess.run(
        [sys.executable, str(folder / "repro.py"), "--runs", "20"], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    assert " of 320 numbers of the row differ, the first: " in ran.stdout
    assert "first inputs: 1 distinct outputs of the row in 20 runs" in ran.stdout
    assert ran.stdout.endswith("unique outputs: 2\n")


def test_json_names_the_files(flipped: RunRecord, tmp_path: Path) -> None:
    code, out, _ = farm("repro", "latest", "ordered", "--output", str(tmp_path / "shown"), "--json")
    document = json.loads(out)
    assert code == 0 and document["format"] == "farm.repro/1" and document["run"] == flipped.id
    assert all(Path(name).exists() for name in document["files"])
    assert document["divergence"]["kind"] == "fp8_gemm"


def test_a_group_that_is_not_there(flipped: RunRecord) -> None:
    code, _, err = farm("repro", "latest", "invariant")
    assert code == ExitCode.USAGE
    assert "there is no group 'invariant'" in err and "ordered prefix: prefix length 400 fp32 batch_invariance" in err


def test_tensors_that_are_gone(flipped: RunRecord, tmp_path: Path) -> None:
    operations = Path(flipped.folder) / "operations"
    operations.rename(tmp_path / "elsewhere")
    code, _, err = farm("repro", "latest", "prefix", "--output", str(tmp_path / "shown"))
    (tmp_path / "elsewhere").rename(operations)
    assert code == ExitCode.USAGE and "can't be read" in err and not (tmp_path / "shown").exists()


def test_a_run_without_traces(stored: list[RunRecord]) -> None:
    code, _, err = farm("repro", stored[0].id, "streamk")
    assert code == ExitCode.USAGE and "no group whose first diverging operation was kept" in err
