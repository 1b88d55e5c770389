from __future__ import annotations

from workers.engine.prompts import PROMPT_1, PROMPT_2, long_text, own_prompts


def test_prompt_1_is_short_and_prompt_2_asks_for_a_list_of_numbers() -> None:
    assert len(PROMPT_1) < 80
    assert "200" in PROMPT_2 and "numbers" in PROMPT_2


def test_the_long_text_is_long_and_plain_and_ends_with_a_sentence() -> None:
    text = long_text(0)
    assert 30_000 <= len(text) < 33_000
    assert text.isascii()
    assert text.endswith(".")
    assert len(set(text.splitlines())) == len(text.splitlines())


def test_the_long_text_is_that_of_its_seed() -> None:
    assert long_text(1) == long_text(1) != long_text(2)
    assert own_prompts(1).long == long_text(1)
    # Stored runs are repeated by their seed: another text under the same seed would be another run.
    assert long_text(0).splitlines()[2] == (
        "Entry 1, 12:42. At the market hall, a retired pilot paid 745 coins for a clock without hands, while it rained."
    )


def test_a_text_is_as_long_as_asked_for() -> None:
    assert 100 <= len(long_text(0, 100)) < 400
