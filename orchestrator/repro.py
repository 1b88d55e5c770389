"""A folder that shows a flip again, with one operation on one device: its tensors, where it ran, and a script."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from orchestrator.report.parting import divergence_words
from orchestrator.report.words import group_words
from orchestrator.run_folder import RunFolder
from specs.errors import UsageError
from specs.result import Divergence, Environment, RunRecord, Verdict

FILES = ("operation.safetensors", "environment.json", "divergence.json", "repro.py")

SCRIPT = '''"""Runs one operation again and again on the inputs of two runs whose answers parted.

    {words}

Needs the farm (pip install determinism-farm) and, for a run on a GPU, a GPU. It prints the number of distinct outputs
of the row that parted: 1 is what a deterministic operation gives. --runs N, --device cpu or cuda.
"""

import argparse
from pathlib import Path

import torch

from workers.trace.rerun import load
from workers.trace.values import row_difference

parser = argparse.ArgumentParser()
parser.add_argument("--runs", type=int, default=200)
parser.add_argument("--device", default={device!r})
arguments = parser.parse_args()
operation = load(Path(__file__).with_name("operation.safetensors"))
sides = {{"first": operation.first, "second": operation.second}}

kept = {{name: side.output[side.rows].contiguous() for name, side in sides.items()}}
parted = row_difference(kept["first"], kept["second"])
pair = " and ".join(f"{{value}} ({{bits}})" for value, bits in zip(parted.values, parted.bits))
print(f"as kept: {{parted.differing}} of {{parted.elements}} numbers of the row differ, the first: {{pair}}")

outputs = set()
for name, side in sides.items():
    call = operation.call(side, torch.device(arguments.device))
    if call is None:
        raise SystemExit(f"it can't be run by itself on {{arguments.device}}: the two outputs above are what there is")
    rows = (call()[side.rows].cpu().contiguous() for _ in range(arguments.runs))
    found = {{row.view(torch.uint8).numpy().tobytes() for row in rows}}
    print(f"{{name}} inputs: {{len(found)}} distinct outputs of the row in {{arguments.runs}} runs")
    outputs |= found
print(f"unique outputs: {{len(outputs)}}")
'''


def write(record: RunRecord, group: str, folder: Path) -> Verdict:
    """Write FILES into ``folder``, which is made, for the group that ``group`` names; its verdict.

    Raises UsageError for a group that is not there, that did not part or whose tensors were not kept, and for a
    folder that can't be written.
    """
    verdict = find(record, group)
    one = verdict.divergence
    assert one is not None and one.artefact is not None
    try:
        content = RunFolder(record.folder).operation(one.artefact).read_bytes()
    except OSError as error:
        raise UsageError(f"the tensors of {group_words(verdict)} can't be read: {error}") from error
    environments = [place for place in record.environments if place.stratum == verdict.stratum]
    texts = {
        "environment.json": TypeAdapter(list[Environment]).dump_json(environments, indent=2),
        "divergence.json": one.model_dump_json(indent=2).encode(),
        "repro.py": _script(one, environments).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in {"operation.safetensors": content, **texts}.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise UsageError(f"can't write {folder}: {error.strerror}") from error
    return verdict


def find(record: RunRecord, wanted: str) -> Verdict:
    """The verdict about the group with this name, or the only one with these words in its name.

    Raises UsageError, with the groups that there are, where it is none or not one.
    """
    verdicts = record.judgement.verdicts if record.judgement else []
    kept = {group_words(v): v for v in verdicts if v.divergence is not None and v.divergence.artefact is not None}
    if wanted in kept:
        return kept[wanted]
    near = [name for name in kept if wanted in name]
    if len(near) == 1:
        return kept[near[0]]
    if not kept:
        raise UsageError(
            f"run {record.id} has no group whose first diverging operation was kept; "
            "model jobs with trace: true keep it when a group flips"
        )
    problem = f"{len(near)} groups have {wanted!r} in their name" if near else f"there is no group {wanted!r}"
    listed = "\n  ".join(near or kept)
    raise UsageError(f"{problem} in run {record.id}; allowed is one of\n  {listed}")


def _script(one: Divergence, environments: list[Environment]) -> str:
    device = "cpu" if all(place.device == "cpu" for place in environments) else "cuda"
    words = divergence_words(one).replace("\\", "/").replace('"""', "")
    return SCRIPT.format(words=words, device=device)
