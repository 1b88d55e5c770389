from __future__ import annotations

import pytest

from specs.errors import UsageError
from workers.engine.request import Limits, Request, cache_slots, check_requests

LIMITS = Limits(vocab_size=320, max_positions=100, pages=4, page_size=16)


def test_what_fits_just_is_taken() -> None:
    # The last new token never goes into the cache: 60 + 5 - 1 slots are 4 pages.
    check_requests([Request((319,) * 60, "a", max_new_tokens=5)], LIMITS)
    assert cache_slots(Request((1,), "a", max_new_tokens=0)) == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request((), "a"), "request 'a': the prompt has no tokens; at least 1 is needed"),
        (Request((1, 320), "a"), "the prompt has token 320; this model's are 0 to 319"),
        (Request((1,), "a", max_new_tokens=-1), "max_new_tokens is -1; at least 0 is allowed"),
        (Request((1,), "a", temperature=-0.5), "temperature is -0.5; 0 and finite numbers above it are allowed"),
        (Request((1,), "a", temperature=float("nan")), "temperature is nan; 0 and finite numbers above it are allowed"),
        (Request((1,), "a", arrives_at_step=-1), "arrives_at_step is -1; at least 0 is allowed"),
        (Request((1, 2), "a", logprobs_from=0), "logprobs_from is 0; 1 to the prompt's 2 tokens are allowed"),
        (Request((1, 2), "a", logprobs_from=3), "logprobs_from is 3; 1 to the prompt's 2 tokens are allowed"),
        (
            Request((1,) * 60, "a", max_new_tokens=41),
            "60 tokens and 41 new ones are more than the model's 100 positions; shorten the prompt or lower "
            "max_new_tokens",
        ),
        (
            Request((1,) * 60, "a", max_new_tokens=6),
            "60 tokens and 6 new ones need 5 pages of 16 tokens, and the cache has 4; raise pages, shorten the prompt "
            "or lower max_new_tokens",
        ),
    ],
)
def test_what_does_not_fit_is_told(request_: Request, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_requests([request_], LIMITS)
    assert message in str(caught.value)


def test_labels_are_different() -> None:
    with pytest.raises(UsageError, match="request 'a': another request of this call has the same label"):
        check_requests([Request((1,), "a", 1), Request((2,), "a", 1)], LIMITS)
