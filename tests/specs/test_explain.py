from __future__ import annotations

import pytest

from tests.specs.examples import VALID, changed, complaint, complaints

VARIANTS = (
    "streamk, streamk-ordered, persistent, invariant, sgl-kernel, deep-gemm, torch-scaled-mm, triton"
    " or python:package.module:function"
)
SETS = "seed-pr, sensitive, deepseek-v3-tp1, deepseek-v3-tp8, h200-table"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # the place is that of the value, or of the key where the key is wrong
        ("trials: 50", "trails: 50", "job.yaml:11:1: trails: unknown key: allowed: version, name, "),
        (
            "trials: 50",
            "gates: {sped: 1}",
            "11:9: gates.sped: unknown key: allowed: accuracy, speed; the nearest is speed",
        ),
        ("trials: 50", "trials: 0", "job.yaml:11:9: trials: 0: allowed: a whole number from 1 to 10000000"),
        # values that YAML reads as another type than was meant
        ("trials: 50", "trials: 1_000", "11:9: trials: 1_000: allowed: a whole number from 1 to 10000000; write 1000"),
        ("trials: 50", "trials: 1e3", "trials: 1e3: allowed: a whole number from 1 to 10000000; write 1000"),
        ("trials: 50", 'trials: "50"', 'trials: "50": allowed: a whole number from 1 to 10000000; write 50'),
        ("trials: 50", "trials: 050", "trials: 050: allowed: a whole number from 1 to 10000000; write 50"),
        ("trials: 50", "trials: 1.5", "trials: 1.5: allowed: a whole number from 1 to 10000000"),
        ("trials: 50", "trials: true", "trials: true: allowed: a whole number"),
        ("trials: 50", f"trials: {'9' * 5000}", f"trials: {'9' * 40}…{'9' * 15}: allowed: a whole number"),
        ("trials: 50", "trials: [1]", "trials: a list of 1: allowed: a whole number"),
        ("trials: 50", "trials: {}", "trials: a mapping: allowed: a whole number"),
        ("trials: 50", "timeouts: {wait: true}", "timeouts.wait: true: allowed: a number above 0 to 86400"),
        ("trials: 50", "timeouts: {wait: .inf}", "timeouts.wait: .inf: allowed: a number above 0 to 86400"),
        ("required: false", "required: no", "shapes[1].required: no: allowed: true or false; write false"),
        ("name: example", "name: 2026", 'digits, . _ - (at most 64); if text is meant, write "2026"'),
        ("name: example", "name: a b", "name: a b: allowed: letters, digits, . _ - (at most 64)"),
        ("version: 1", "version: 2", "job.yaml:1:10: version: 2: allowed: 1"),
        ("version: 1", "seed: 1", "job.yaml:1:1: version: missing: allowed: 1"),
        # names
        (
            "name: streamk",
            "name: streemk",
            f"6:12: variants[0].name: streemk: allowed: {VARIANTS}; the nearest is streamk",
        ),
        ("- invariant", "- invarient", f"7:5: variants[1]: invarient: allowed: {VARIANTS}; the nearest is invariant"),
        ("- invariant", "- python:a.b", f"variants[1]: python:a.b: allowed: {VARIANTS}"),
        ("- invariant", "- 5", "variants[1]: 5: allowed: streamk, "),
        (
            "- invariant",
            "- {nme: invariant}",
            "variants[1].nme: unknown key: allowed: name, expect; the nearest is name",
        ),
        ("- invariant", "- streamk", "job.yaml:7:5: variants[1]: streamk is there already, at [0]: leave one out"),
        (
            "set: sensitive",
            "set: sensitiv",
            f"10:11: shapes[1].set: sensitiv: allowed: {SETS}; the nearest is sensitive",
        ),
        ("op: fp8_blockwise_gemm", "op: gemm", "op: gemm: allowed: fp8_blockwise_gemm"),
        (
            "trials: 50",
            "dtypes: [bf16, bf17]",
            "11:16: dtypes[1]: bf17: allowed: bf16, fp16 or fp32; the nearest is bf16",
        ),
        ("trials: 50", "dtypes: [bf16, bf16]", "job.yaml:11:16: dtypes[1]: bf16 is there already, at [0]"),
        ("trials: 50", "dtypes: []", "dtypes: an empty list: allowed: a list, not empty, of bf16, fp16 or fp32"),
        ("trials: 50", "dtypes: bf16", "dtypes: bf16: allowed: a list, not empty, of bf16, fp16 or fp32"),
        ("trials: 50", "device:", "device: nothing: allowed: auto, cpu or cuda"),
        # shapes, short and long
        (
            "[64, 4096, 128]",
            "[64, 4100, 130]",
            "job.yaml:9:5: shapes[0]: k = 4100: allowed: multiples of 128 up to 1048576;"
            " the nearest is 4096; n = 130: allowed: multiples of 8 up to 1048576; the nearest is 128",
        ),
        (
            "[64, 4096, 128]",
            "{mkn: [0, 128, 8]}",
            "9:11: shapes[0].mkn: m = 0: allowed: 1 to 1048576; the nearest is 1",
        ),
        ("[64, 4096, 128]", "[64, 4096]", "shapes[0]: a list of 2: allowed: [m, k, n]"),
        (
            "[64, 4096, 128]",
            "[64, x, 128]",
            "9:10: shapes[0][1]: x: allowed: a whole number from 128 to 1048576 in steps of 128",
        ),
        (
            "[64, 4096, 128]",
            "7",
            f"shapes[0]: 7: allowed: [m, k, n], {SETS} or a mapping with the keys mkn, set, m, required",
        ),
        ("[64, 4096, 128]", "{}", "shapes[0]: neither given: allowed: either mkn: [m, k, n] or set: NAME"),
        (
            "[64, 4096, 128]",
            "deepseek-v3-tp1",
            "shapes[0]: deepseek-v3-tp1 is a set of weights (k, n): add m, for example",
        ),
        (
            "[64, 4096, 128]",
            "{set: sensitive, m: [1]}",
            "shapes[0]: m is given: allowed only with a set of weights: deepseek-",
        ),
        # unions: the member that was meant, or all of them
        (
            "expect: nondeterministic",
            "expect: nondet",
            "variants[0].expect: nondet: allowed: deterministic, nondeterministic, any"
            " or a mapping with the keys run_to_run, batch_invariance, cross_process, cross_device",
        ),
        (
            "expect: nondeterministic",
            "expect: {run_to_run: maybe}",
            "6:42: variants[0].expect.run_to_run: maybe: allowed: deterministic, nondeterministic or any",
        ),
        (
            "expect: nondeterministic",
            "expect: {run: any}",
            "6:30: variants[0].expect.run: unknown key: allowed: run_to_run, batch_invariance, cross_process, ",
        ),
        # a gate against a variant that isn't there
        (
            "trials: 50",
            "gates: {speed: {against: invarian}}",
            "against: invarian: allowed: the variants of this job: streamk, invariant; the nearest is invariant",
        ),
    ],
)
def test_a_fault_is_told_with_its_place_what_is_allowed_and_the_nearest(old: str, new: str, message: str) -> None:
    found = [line for line in complaints(VALID.replace(old, new, 1)) if message in line]
    assert len(found) == 1, complaints(VALID.replace(old, new, 1))


def test_one_fault_is_told_once() -> None:
    for old, new in [
        ("expect: nondeterministic", "expect: nondet"),
        ("expect: nondeterministic", "expect: {run_to_run: maybe}"),
        ("- invariant", "- 5"),
        ("[64, 4096, 128]", "[64, x, 128]"),
    ]:
        complaint(changed(old, new))


def test_a_wrong_key_and_the_wrong_value_under_it_are_both_told() -> None:
    found = complaints(changed("expect: nondeterministic", "expect: {run: maybe}"))
    assert [line.split(": ")[0] for line in found] == ["job.yaml:6:30", "job.yaml:6:35"]


def test_every_fault_is_told_in_the_order_of_the_file() -> None:
    text = "trials: no\nkind: kernel\nshapes: [x]\nversion: 1\nvariants: [y]\ndtypes: [z]\n"
    assert [line.split(": ")[:2] for line in complaints(text)] == [
        ["job.yaml:1:1", "name"],
        ["job.yaml:1:1", "op"],
        ["job.yaml:1:9", "trials"],
        ["job.yaml:3:10", "shapes[0]"],
        ["job.yaml:5:12", "variants[0]"],
        ["job.yaml:6:10", "dtypes[0]"],
    ]


def test_keys_that_are_no_names_are_quoted_and_long_values_cut() -> None:
    only = complaint(changed("trials: 50", '"a.b\\e[2J": 1'))
    assert only.startswith('job.yaml:11:1: "a.b\\\\x1b[2J": unknown key')
    assert len(complaint(changed("name: example", f"name: {'x' * 1000}"))) < 200
