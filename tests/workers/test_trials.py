from __future__ import annotations

from specs.device import Device
from specs.job import Property
from specs.shapes import Shape
from specs.unit import SMALLEST_POOL, KernelUnit
from tests.orchestrator.builders import unit
from workers.trials import EVERY_SIZE_TO, batches


def batch_unit(first_trial: int, trials: int, device: Device = Device.CPU, m: int = 4) -> KernelUnit:
    return unit(
        0,
        purpose=Property.BATCH_INVARIANCE,
        shape=Shape(m, 1024, 16),
        first_trial=first_trial,
        trials=trials,
        device=device,
    )


def test_batches_begin_with_the_pool_and_have_the_ends_and_every_position() -> None:
    drawn = list(batches(batch_unit(0, 60)))
    assert drawn[0] == (0, 0, SMALLEST_POOL)
    assert {1, SMALLEST_POOL - 1} <= {rows for _, _, rows in drawn}
    assert all(offset >= 0 and offset + rows <= SMALLEST_POOL for _, offset, rows in drawn)
    ends = {(offset == 0, offset + rows == SMALLEST_POOL) for _, offset, rows in drawn[3:]}
    assert ends == {(True, False), (False, False), (False, True)}


def test_batches_do_not_depend_on_how_trials_are_chunked() -> None:
    whole = list(batches(batch_unit(0, 20)))
    later = list(batches(batch_unit(10, 10)))
    assert later[0][2] == SMALLEST_POOL
    assert later[1:] == whole[11:]


def test_on_a_gpu_every_small_batch_is_tried() -> None:
    drawn = {rows for _, _, rows in batches(batch_unit(0, 300, Device.CUDA, m=4096))}
    assert set(range(1, EVERY_SIZE_TO + 1)) | {4095, 4096} <= drawn
    assert max(drawn) == 4096 and len(drawn) > 290
