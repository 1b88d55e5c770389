from __future__ import annotations

import json

import torch

from orchestrator.speed import summary
from specs.device import Device
from specs.job import OWN_VARIANTS, Dtype
from specs.shapes import Shape
from tests.orchestrator.builders import unit
from workers.bench_gpu import TARGETS, bench_gpu, warm_deep_gemm
from workers.ceilings import Rates, measure_rates, rates_for
from workers.gemm.inputs import make_inputs
from workers.gemm.reference import reference_fp64, relative_error
from workers.gemm.targets import find_target
from workers.runner import Runner

DEVICE = torch.device("cuda", 0)
SHAPES = (Shape(8, 1536, 3072), Shape(2048, 1536, 3072), Shape(1, 7168, 576))
ANY = Rates(4e12, 1.5e15, "measured")


def test_a_small_table() -> None:
    warm_deep_gemm(SHAPES, DEVICE)
    cells = list(bench_gpu(SHAPES, DEVICE, ANY))
    assert [cell.shape for cell in cells] == list(SHAPES)
    for cell in cells:
        assert set(cell.times) | set(cell.unsupported) == set(TARGETS)
        assert set(OWN_VARIANTS) <= set(cell.times)
        assert all(times.captured for times in cell.times.values())
        assert not any(reason.startswith("failed") for reason in cell.unsupported.values()), cell.unsupported
        for name, times in cell.times.items():
            assert cell.floor_seconds / 2 < times.median < 1e-3, name
    found = summary(cells)
    assert found["cells"] == 3
    json.dumps(found, allow_nan=False)


def test_the_rates_of_this_device_are_below_its_datasheet() -> None:
    measured = measure_rates(DEVICE)
    floor = rates_for(torch.cuda.get_device_name(DEVICE), measured)
    assert 0.5 * floor.bytes < measured.bytes <= floor.bytes
    assert 0.4 * floor.flops < measured.flops <= floor.flops


def test_triton_multiplies() -> None:
    triton = find_target("triton")
    for m in (1, 16, 33, 100, 1500):
        inputs = make_inputs(m, 576, 1536, seed=m, device=DEVICE)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            assert triton.unsupported(m, 576, 1536, dtype, DEVICE) is None
            out = triton.call(inputs, dtype)()
            assert relative_error(out, reference_fp64(inputs)) < 3e-3, (m, dtype)


def test_a_measured_unit_has_the_time_of_a_graphs_launch() -> None:
    work = unit(0, device=Device.CUDA, purpose="measure", shape=Shape(64, 1536, 3072), dtype=Dtype.BF16, trials=5)
    measurement = Runner(DEVICE).run(work, 1).result.measurement
    assert measurement is not None and measurement.captured
    assert len(measurement.seconds) == 5
    assert 0 < max(measurement.seconds) < 1e-4
