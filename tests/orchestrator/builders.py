"""Plans, results and run records as small as a test needs, with every outcome there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from specs.device import Device
from specs.errors import ExitCode
from specs.job import Dtype, Expectation, Mode, Property, Stress
from specs.kernel_job import KernelJob
from specs.model_job import ModelJob
from specs.result import (
    Divergence,
    Environment,
    Judgement,
    Measurement,
    Outcome,
    RowValues,
    RunRecord,
    RunStatus,
    Speed,
    Throughput,
    Timing,
    UnitResult,
    Verdict,
    Witness,
)
from specs.shapes import Shape
from specs.subject import Prompt
from specs.uniqueness import CellRecord, Sighting
from specs.unit import Capacity, KernelUnit, Plan

SMALL = Shape(64, 256, 128)
SENSITIVE = Shape(128, 7168, 1536)
STRATUM = "Some CPU @ 2 GHz / - / 0123456789ab"


def job(name: str = "nightly", **changes: Any) -> KernelJob:
    fields: dict[str, Any] = {
        "version": 1,
        "kind": "kernel",
        "name": name,
        "op": "fp8_blockwise_gemm",
        "variants": [{"name": "streamk", "expect": "nondeterministic"}, "invariant"],
        "shapes": [[128, 7168, 1536]],
    }
    return KernelJob.model_validate(fields | changes)


def model_job(name: str = "nightly-model", **changes: Any) -> ModelJob:
    """Two ranks of the smallest model, a control and what is held against it."""
    fields: dict[str, Any] = {
        "version": 1,
        "kind": "model",
        "name": name,
        "device": "cpu",
        "model": {"random": {"preset": "deepseek-v3-nano", "seed": 1}},
        "targets": [
            {"name": "streamk", "gemm": "streamk", "tp": 2, "expect": "nondeterministic"},
            {"name": "invariant", "gemm": "invariant", "collective": "ordered", "deterministic": True, "tp": 2},
        ],
        "modes": ["single"],
        "trials": 3,
        "dtype": "fp32",
        "max_new_tokens": 4,
        "prefix_lengths": [1, 40],
        "long_prompt_tokens": 80,
        "page_size": 16,
        "pages": 64,
    }
    return ModelJob.model_validate(fields | changes)


def unit(index: int, **changes: Any) -> KernelUnit:
    fields: dict[str, Any] = {
        "index": index,
        "variant": "invariant",
        "shape": SENSITIVE,
        "dtype": Dtype.BF16,
        "purpose": Property.RUN_TO_RUN,
        "stress": Stress.QUIET,
        "first_trial": 0,
        "trials": 50,
        "seed": 42,
        "device": Device.CPU,
        "cpus": 1.0,
        "gpus": 0.0,
        "estimate_s": 0.5,
        "timeout_s": 600.0,
    }
    return KernelUnit(**fields | changes)


def plan(units: int = 3, name: str = "nightly") -> Plan:
    capacity = Capacity(device=Device.CPU, workers=2, cpus_per_worker=1.0, gpus_per_worker=0.0)
    return Plan(job=job(name), capacity=capacity, units=tuple(unit(index) for index in range(units)))


def kernel_units(made: Plan) -> list[KernelUnit]:
    return [unit for unit in made.units if isinstance(unit, KernelUnit)]


def environment(**changes: Any) -> Environment:
    fields: dict[str, Any] = {
        "node": "node-1",
        "cpu": "Some CPU @ 2 GHz",
        "device": "cpu",
        "device_uuid": None,
        "driver": None,
        "cuda": None,
        "nccl": None,
        "python": "3.11.2",
        "torch": "2.13.0",
        "ray": "2.60.0",
        "packages": {"numpy": "2.4.6"},
        "kernel_build": "0123456789abcdef",
        "git_commit": "788d7df",
        "variables": {"OMP_NUM_THREADS": "1"},
        "visible_devices": None,
    }
    return Environment(**fields | changes)


def sighting(trial: int = 0, stress: str = "quiet", device: str = "node-1 cpu 0") -> Sighting:
    return Sighting(trial=trial, conditions=stress, unit=0, attempt=1, device=device)


def result(unit: int, attempt: int = 1, **changes: Any) -> UnitResult:
    cell = CellRecord(
        variant="invariant",
        subject=SENSITIVE,
        dtype=Dtype.BF16,
        property=Property.RUN_TO_RUN,
        stratum=STRATUM,
        trials=50,
        tallies=[(0, "ab" * 16, 50, sighting())],
    )
    fields: dict[str, Any] = {
        "unit": unit,
        "attempt": attempt,
        "environment": environment(),
        "cells": [cell],
        "measurement": None,
        "seconds": 1.5,
    }
    return UnitResult(**fields | changes)


def measurement(relative_error: float = 1.67e-3) -> Measurement:
    return Measurement(
        seconds=[1.0e-3, 1.1e-3, 1.2e-3],
        relative_error=relative_error,
        rounding_floor=1.66e-3,
        reordered_elements=40,
        reordered_of=4096,
    )


def witness(**changes: Any) -> Witness:
    fields: dict[str, Any] = {
        "item": 0,
        "first": sighting(0),
        "second": sighting(3, "competing_threads"),
        "first_digest": "ab" * 16,
        "second_digest": "cd" * 16,
        "elements": 196608,
        "differing": 1202,
        "index": 42,
        "coordinates": (0, 42),
        "values": ("1.0625", "1.0703125"),
        "bits": ("0x3f88", "0x3f89"),
        "max_ulp": 2,
    }
    return Witness(**fields | changes)


def verdict(variant: str = "invariant", outcome: Outcome = Outcome.DETERMINISTIC, **changes: Any) -> Verdict:
    """Of 50 trials. A nondeterministic one has 3 digests and a witness, the others one digest and a bound."""
    flipped, counted = outcome is Outcome.NONDETERMINISTIC, outcome not in (Outcome.UNSUPPORTED, Outcome.ERROR)
    fields: dict[str, Any] = {
        "variant": variant,
        "subject": SENSITIVE,
        "dtype": Dtype.BF16,
        "property": Property.RUN_TO_RUN,
        "stratum": STRATUM if counted else "-",
        "outcome": outcome,
        "reason": None,
        "expected": Expectation.DETERMINISTIC,
        "required": True,
        "trials": 50 if counted else 0,
        "total": 50 if counted else 0,
        "unique": (3 if flipped else 1) if counted else 0,
        "items": 1 if counted else 0,
        "flips": 6 if flipped else 0,
        "first_flip": sighting(3, "competing_threads") if flipped else None,
        "bound": 0.0581551 if counted and not flipped else None,
        "witness": witness() if flipped else None,
    }
    return Verdict(**fields | changes)


def speed(variant: str = "invariant", median: float = 1.2e-3, **changes: Any) -> Speed:
    fields: dict[str, Any] = {
        "variant": variant,
        "shape": SENSITIVE,
        "dtype": Dtype.BF16,
        "stratum": STRATUM,
        "timing": Timing(launches=30, median=median, q1=median * 0.95, q3=median * 1.1),
        "relative_error": 1.67e-3,
        "rounding_floor": 1.66e-3,
        "cost": None,
        "failed_gates": [],
    }
    return Speed(**fields | changes)


def throughput(variant: str = "invariant", rate: float = 50.0, **changes: Any) -> Throughput:
    fields: dict[str, Any] = {
        "variant": variant,
        "mode": Mode.MIXED,
        "dtype": Dtype.BF16,
        "stratum": STRATUM,
        "prompt_tokens": 1000,
        "new_tokens": 100,
        "seconds": 100 / rate,
        "tokens_per_second": rate,
        "cost": None,
    }
    return Throughput(**fields | changes)


def model_judgement() -> Judgement:
    """A control that flips and a target that holds, on two prompts of one mode."""
    subjects = [Prompt(Mode.MIXED, "prompt 1"), Prompt(Mode.MIXED, "long prompt")]
    shown: dict[str, Any] = {"property": Property.BATCH_INVARIANCE}
    control = {"expected": Expectation.NONDETERMINISTIC, "witness": answer_witness(), **shown}
    return Judgement(
        verdicts=[
            *(verdict("streamk", Outcome.NONDETERMINISTIC, subject=subject, **control) for subject in subjects),
            *(verdict("invariant", subject=subject, **shown) for subject in subjects),
        ],
        speeds=[],
        throughputs=[throughput("streamk", 80.0), throughput("invariant", 50.0, cost=1.6)],
        errors=[],
        exit_code=ExitCode.MET,
    )


def divergence(**changes: Any) -> Divergence:
    fields: dict[str, Any] = {
        "variant": "streamk",
        "subject": Prompt(Mode.MIXED, "prompt 1"),
        "dtype": Dtype.BF16,
        "property": Property.BATCH_INVARIANCE,
        "trials": (1, 3),
        "labels": ("prompt 1 #1", "prompt 1 #2"),
        "rank": 0,
        "steps": (0, 2),
        "position": 17,
        "sampled_at": 50,
        "op": "layers.0.self_attn.qkv_a_proj",
        "kind": "fp8_gemm",
        "implementation": "farm:streamk",
        "layer": 0,
        "gemm_shapes": ((51, 320, 1024), (102, 320, 1024)),
        "inputs_equal": True,
        "weights_equal": True,
        "row": RowValues(
            elements=320,
            differing=12,
            coordinates=(17, 4),
            values=("0.5", "0.25"),
            bits=("0x3f00", "0x3e80"),
            max_ulp=128,
        ),
        "artefact": "ef" * 16,
    }
    return Divergence(**fields | changes)


def answer_witness() -> Witness:
    return witness(
        first=sighting(1, "row 0 of 1"),
        second=sighting(3, "row 2 of 3"),
        elements=16,
        differing=5,
        index=11,
        coordinates=(11,),
        values=("token 237, logprob -2.5", "token 12, logprob -2.25"),
        bits=("0xc0200000", "0xc0100000"),
        max_ulp=7,
    )


def model_record(judgement: Judgement | None = None) -> RunRecord:
    return record(judgement or model_judgement(), name="nightly-model", kind="model", job=model_job(modes=["mixed"]))


def every_outcome() -> Judgement:
    """A control that flips, a variant that holds, and one of each that went another way."""
    shown = Outcome
    return Judgement(
        verdicts=[
            verdict("streamk", shown.NONDETERMINISTIC, expected=Expectation.NONDETERMINISTIC, unique=7, flips=31),
            verdict("invariant"),
            verdict("invariant", property=Property.BATCH_INVARIANCE, items=256, total=12800),
            verdict("persistent", shown.NONDETERMINISTIC),
            verdict(
                "persistent",
                shown.INCONCLUSIVE,
                subject=SMALL,
                reason="no control flipped under the same conditions: streamk (50 trials)",
            ),
            verdict("deep-gemm", shown.UNSUPPORTED, reason="deep-gemm needs a Hopper GPU: this machine has none"),
            verdict("torch-scaled-mm", shown.ERROR, reason="its worker died: out of memory", dtype=Dtype.FP16),
        ],
        speeds=[
            speed("streamk", 1.0e-3),
            speed("invariant", 1.2e-3, cost=1.2),
            speed("persistent", 0.9e-3, failed_gates=["accuracy: relative error 1.900e-02 is over 1.1 x the floor"]),
        ],
        errors=["unit 6 (torch-scaled-mm 128x7168x1536 fp16 run_to_run quiet): its worker died: out of memory"],
        exit_code=ExitCode.FAILED,
    )


def record(judgement: Judgement | None = None, **changes: Any) -> RunRecord:
    created = datetime(2026, 11, 22, 16, 45, 1, tzinfo=UTC)
    judged = judgement if judgement is not None else every_outcome()
    fields: dict[str, Any] = {
        "id": "20261122-164501-a1b2",
        "name": "nightly",
        "kind": "kernel",
        "status": RunStatus.COMPLETE,
        "created_at": created,
        "finished_at": created + timedelta(seconds=83),
        "units": 12,
        "units_done": 12,
        "exit_code": judged.exit_code,
        "error": None,
        "folder": "runs/20261122-164501-a1b2",
        "farm_version": "0.1.0",
        "job": job(),
        "judgement": judged,
        "environments": [environment()],
    }
    return RunRecord(**fields | changes)
