from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from workers.observe import DeviceObserver


@pytest.fixture(scope="module")
def observer() -> DeviceObserver:
    return DeviceObserver()


def digest(observer: DeviceObserver, out: torch.Tensor) -> tuple[int, ...]:
    found = torch.zeros(2, dtype=torch.int64, device="cuda")
    observer.digest(out, found)
    return tuple(found.tolist())


def test_every_bit_counts(observer: DeviceObserver) -> None:
    out = torch.randint(0, 256, (3, 1 << 12), dtype=torch.uint8, device="cuda")
    seen = {digest(observer, out)}
    for byte in (0, 1, 4095, 4096, 7777, out.numel() - 1):
        for bit in (0, 7):
            changed = out.clone()
            changed.view(-1)[byte] ^= 1 << bit
            seen.add(digest(observer, changed))
    assert len(seen) == 13


def test_the_place_counts(observer: DeviceObserver) -> None:
    out = torch.arange(1 << 14, dtype=torch.int64, device="cuda").view(2, -1)
    swapped = out.clone()
    swapped[0, 3], swapped[1, 77] = out[1, 77], out[0, 3]
    assert digest(observer, swapped) != digest(observer, out)


@pytest.mark.parametrize("shape", [(1, 8), (3, 24), (17, 4104), (4096, 576), (5, 1 << 20)])
def test_rows_have_the_digest_they_have_alone(observer: DeviceObserver, shape: tuple[int, int]) -> None:
    out = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    rows = torch.zeros(shape[0], 2, dtype=torch.int64, device="cuda")
    observer.digest_rows(out, rows)
    for row in (0, shape[0] // 2, shape[0] - 1):
        assert tuple(rows[row].tolist()) == digest(observer, out[row : row + 1])
    assert len({tuple(row) for row in rows.tolist()}) == shape[0]


def test_the_same_bytes_have_the_same_digest_every_time(observer: DeviceObserver) -> None:
    out = torch.randn(1 << 22, device="cuda").view(4, -1)
    assert len({digest(observer, out) for _ in range(50)}) == 1


def test_the_first_differing_sample_is_kept(observer: DeviceObserver) -> None:
    reference = torch.zeros(2, dtype=torch.int64, device="cuda")
    samples = [torch.full((64, 64), float(value), device="cuda") for value in (1, 1, 2, 3, 1)]
    observer.digest(samples[0], reference)
    kept, taken = torch.zeros_like(samples[0]), torch.zeros(1, dtype=torch.int32, device="cuda")
    for mark, sample in enumerate(samples, start=1):
        found = torch.zeros_like(reference)
        observer.digest(sample, found)
        observer.keep_if_different(found, reference, sample, kept, taken, mark)
    assert int(taken) == 3
    assert torch.equal(kept, samples[2])


def test_digests_are_as_fast_as_memory(observer: DeviceObserver) -> None:
    """80 % of the copy bandwidth of this very run, for outputs of 64 MiB and more."""
    out = torch.randint(0, 256, (1, 256 << 20), dtype=torch.uint8, device="cuda")
    copy, found = torch.empty_like(out), torch.zeros(2, dtype=torch.int64, device="cuda")
    copied = 2 * out.numel() / milliseconds(lambda: copy.copy_(out))
    digested = out.numel() / milliseconds(lambda: observer.digest(out, found))
    assert digested >= 0.8 * copied, f"{digested / 1e9:.2f} TB/s, where a copy moves {copied / 1e9:.2f}"


def milliseconds(launch: Callable[[], object]) -> float:
    """Of one launch, of several in a row, so that the device does not wait for the host."""
    times, repeats, in_a_row = [], 20, 10
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(in_a_row):
            launch()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)) / in_a_row)
    return sorted(times)[repeats // 2]
