from __future__ import annotations

import pytest

from workers.timing import MOST_COPIES, MOST_LAUNCHES, SECONDS_A_TURN, LaunchTimes, copies_for, passes_for

L2 = 60 << 20


@pytest.mark.parametrize("weight", [576 * 7168, 24576 * 1536, 7168 * 18432])
def test_the_weights_are_more_than_twice_the_cache(weight: int) -> None:
    copies = copies_for(weight, L2)
    assert copies >= 2
    assert copies * weight > 2 * L2
    assert copies == 2 or (copies - 1) * weight <= 2 * L2


def test_tiny_weights_do_not_ask_for_endless_copies() -> None:
    assert copies_for(128 * 8, L2) == MOST_COPIES


@pytest.mark.parametrize("copies", [2, 30, MOST_COPIES])
@pytest.mark.parametrize("seconds", [1e-6, 5e-6, 2e-5, 6e-4, 3e-3])
def test_a_turn_is_long_enough_and_goes_round_all_weights(seconds: float, copies: int) -> None:
    launches = passes_for(seconds, copies) * copies
    assert copies <= launches <= MOST_LAUNCHES
    assert launches * seconds >= SECONDS_A_TURN or launches + copies > MOST_LAUNCHES


def test_median_and_quartiles_are_of_turns() -> None:
    times = LaunchTimes((5e-6, 1e-6, 2e-6, 4e-6, 3e-6), launches=100, captured=True)
    assert times.median == 3e-6
    assert times.quartiles == (2e-6, 4e-6)
