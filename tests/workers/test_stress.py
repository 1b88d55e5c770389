from __future__ import annotations

import threading

import pytest
import torch

from specs.job import Property, Stress
from tests.orchestrator.builders import unit
from workers.gemm.inputs import make_inputs
from workers.gemm.native import NativeGemm
from workers.gemm.target import QUIET, Conditions, GemmInputs, Launch
from workers.stress import SM_COUNTS, Stressed

CPU = torch.device("cpu")


class Recording(NativeGemm):
    """A target that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__("invariant")
        self.inputs: list[GemmInputs] = []
        self.conditions: list[Conditions] = []

    def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
        self.inputs.append(inputs)
        launch = super().bind(inputs, out)

        def recorded(conditions: Conditions) -> None:
            self.conditions.append(conditions)
            launch(conditions)

        return recorded


def run(stress: Stress, trials: int = 8, purpose: Property = Property.RUN_TO_RUN) -> tuple[Recording, GemmInputs]:
    inputs, target = make_inputs(3, 136, 256, seed=1, device=CPU), Recording()
    with Stressed(unit(0, stress=stress, purpose=purpose), target, CPU) as stressed:
        for trial in range(trials):
            bound = stressed.bind(inputs, torch.zeros(3, 136, dtype=torch.bfloat16), trial)
            stressed.run(bound, trial)
    return target, inputs


def test_quiet_is_quiet() -> None:
    target, inputs = run(Stress.QUIET)
    assert set(target.conditions) == {QUIET}
    assert all(given is inputs for given in target.inputs)


def test_pauses_and_thread_counts_vary_and_can_be_repeated() -> None:
    for stress in (Stress.RANDOM_PAUSES, Stress.THREAD_COUNT):
        drawn = run(stress, 20)[0].conditions
        assert len(set(drawn)) > 2
        assert run(stress, 20)[0].conditions == drawn
    assert all(chosen.pause_us > 0 for chosen in run(Stress.RANDOM_PAUSES)[0].conditions)


def test_sm_counts_take_turns() -> None:
    drawn = run(Stress.QUIET, 6, Property.SM_COUNT)[0].conditions
    assert [chosen.sm_count for chosen in drawn] == [*SM_COUNTS, *SM_COUNTS]


def test_shifted_operands_hold_the_same_values_elsewhere() -> None:
    target, inputs = run(Stress.SHIFTED_ALLOCATIONS)
    for moved in target.inputs:
        for name, before in vars(inputs).items():
            after = getattr(moved, name)
            assert after.data_ptr() != before.data_ptr()
            assert torch.equal(after.float(), before.float())
            assert after.stride() == before.stride()
            assert after.data_ptr() % 16 == 0
    assert len({moved.mat_a.data_ptr() % 4096 for moved in target.inputs}) > 2


def test_poison_reaches_the_output_and_the_workspace() -> None:
    class Idle(Recording):
        def bind(self, inputs: GemmInputs, out: torch.Tensor) -> Launch:
            return self.conditions.append

    target, inputs = Idle(), make_inputs(3, 136, 256, seed=1, device=CPU)
    with Stressed(unit(0, stress=Stress.POISONED_MEMORY), target, CPU) as stressed:
        bound = stressed.bind(inputs, torch.zeros(3, 136, dtype=torch.bfloat16), 0)
        stressed.run(bound, 0)
    assert bound.out.isnan().all()
    assert target.conditions[0].poison


def test_competing_threads_end_with_the_unit() -> None:
    before = threading.active_count()
    with (
        pytest.raises(RuntimeError),
        Stressed(unit(0, stress=Stress.COMPETING_THREADS), NativeGemm("invariant"), CPU),
    ):
        assert threading.active_count() > before
        raise RuntimeError
    assert threading.active_count() == before
