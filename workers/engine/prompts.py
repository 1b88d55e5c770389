"""The farm's own prompts."""

from __future__ import annotations

import random
from dataclasses import dataclass

PROMPT_1 = "Describe the view from the window of a night train."
"""Short and open-ended: many next tokens are almost equally likely, so that a small error soon shows."""

PROMPT_2 = (
    "Write down the squares of the whole numbers from 1 to 200, one on each line, as in '12 squared is 144'. "
    "Leave none out, do not shorten the list, and add nothing before or after it."
)
"""A long list of numbers: the answer is long, and mostly certain."""

LONG_TEXT_CHARACTERS = 32_000

_PLACES = ("harbour", "observatory", "orchard", "railway yard", "printing works", "lighthouse", "market hall", "quarry")
_PEOPLE = ("the surveyor", "a retired pilot", "the night clerk", "two students", "the organ builder", "an old gardener")
_DEEDS = (
    "counted {n} crates and wrote the number on the wall",
    "waited {n} minutes for a boat that did not come",
    "found a map with {n} villages that nobody could name",
    "paid {n} coins for a clock without hands",
    "walked {n} steps along the fence, and then back again",
    "read {n} letters aloud to an empty room",
    "lit {n} lamps, one after the other, before it was dark",
)
_WEATHER = (
    "while it rained",
    "in thick fog",
    "under a clear sky",
    "with the wind from the north",
    "before the snow came",
)


@dataclass(frozen=True)
class Prompts:
    """The texts that the modes send."""

    prompt_1: str
    prompt_2: str
    long: str


def own_prompts(seed: int) -> Prompts:
    """The farm's prompts; the long one is drawn from ``seed``."""
    return Prompts(PROMPT_1, PROMPT_2, long_text(seed))


def long_text(seed: int, characters: int = LONG_TEXT_CHARACTERS) -> str:
    """A report of numbered entries in plain ASCII, at least ``characters`` long; it ends with a whole sentence."""
    # Strings are hashed by SHA-512 here, so the numbers are the same in every process and on every machine.
    draw = random.Random(f"{seed} long text")
    parts = ["Read this report of a year in a small town, and then go on with its next entry.\n"]
    length = len(parts[0])
    while length < characters:
        deed = draw.choice(_DEEDS).format(n=draw.randint(2, 980))
        when = f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}"
        entry = (
            f"\nEntry {len(parts)}, {when}. At the {draw.choice(_PLACES)}, {draw.choice(_PEOPLE)} {deed}, "
            f"{draw.choice(_WEATHER)}."
        )
        parts.append(entry)
        length += len(entry)
    return "".join(parts)
