from __future__ import annotations

import pytest

from specs.job import Expectation, Property
from tests.specs.examples import VALID, complaint, complaints, parsed


def test_values_are_yaml_and_replace_or_add() -> None:
    job = parsed(VALID, "trials=10", "shapes[0]=[1, 128, 8]", "description=a=b", "dtypes=[fp32]")
    assert (job.trials, job.shapes[0].mkn, job.description) == (10, [1, 128, 8], "a=b")
    assert job.dtypes == ["fp32"]


def test_the_last_of_two_wins_and_later_ones_see_earlier_ones() -> None:
    assert parsed(VALID, "trials=10", "trials=20").trials == 20
    assert parsed(VALID, "shapes=[[1, 128, 8]]", "shapes[0][0]=7").shapes[0].mkn == [7, 128, 8]


def test_mappings_on_the_way_are_made() -> None:
    job = parsed(VALID, "gates.speed.against=streamk", "gates.speed.at_least=0.5")
    assert job.gates.speed is not None and job.gates.speed.at_least == 0.5
    assert job.gates.accuracy == 1.1


def test_a_path_goes_into_entries_written_short() -> None:
    job = parsed(VALID, "variants[1].expect=any", "shapes[0].required=false")
    assert job.variants[1].name == "invariant" and job.variants[1].expect is Expectation.ANY
    assert job.shapes[0].mkn == [64, 4096, 128] and job.shapes[0].required is False
    job = parsed(VALID, "variants[0].expect={batch_invariance: any}", "variants[0].expect.run_to_run=any")
    assert job.variants[0].expect == dict.fromkeys([Property.BATCH_INVARIANCE, Property.RUN_TO_RUN], Expectation.ANY)


def test_a_whole_spec_can_be_given() -> None:
    fields = ["version=1", "kind=kernel", "name=x", "op=fp8_blockwise_gemm", "variants=[streamk]", "shapes=[sensitive]"]
    assert parsed("", *fields).name == "x"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trials=abc", "--set trials=abc: trials: abc: allowed: a whole number from 1 to 10000000"),
        ("trials=", "--set trials=: trials: nothing: allowed: a whole number from 1 to 10000000"),
        ("trails=3", "--set trails=3: trails: unknown key: allowed: version, "),
        ("shapes[0][1]=129", "--set shapes[0][1]=129: shapes[0]: k = 129: allowed: multiples of 128"),
        ("trials", "--set trials: no '=': allowed: PATH=VALUE, for example trials=10"),
        ("=3", "--set =3: '' is no path"),
        ("a..b=3", "--set a..b=3: 'a..b' is no path"),
        ("shapes[x]=3", "--set shapes[x]=3: 'shapes[x]' is no path"),
        ("[0]=3", "--set [0]=3: '[0]' is no path"),
        (".trials=3", "--set .trials=3: '.trials' is no path"),
        ("shapes[0]trials=3", "--set shapes[0]trials=3: 'shapes[0]trials' is no path"),
        ("shapes[2]=sensitive", "--set shapes[2]=sensitive: shapes has no [2]: allowed: [0] to [1]"),
        ("trials[0]=3", "--set trials[0]=3: trials is 50, not a list: it has no [0]"),
        ("trials.x=3", "--set trials.x=3: trials is 50, not a mapping: it has no x"),
        ("dtypes[0]=bf16", "--set dtypes[0]=bf16: dtypes is nothing, not a list: it has no [0]"),
        ("trials=[1", "--set trials=[1: not YAML: "),
        ("trials=1\n---\n2", "--set trials=1\\n---\\n2: a second document starts here"),
        ("trials={a: 1, a: 2}", "--set trials={a: 1, a: 2}: a: this key is given twice: leave one out"),
    ],
)
def test_what_is_wrong_names_the_override(override: str, message: str) -> None:
    assert complaints(VALID, override)[0].startswith(message)


def test_shapes_that_an_override_makes_impossible_say_where_the_list_stands() -> None:
    assert complaint(VALID, "shapes[0]=[64, 4100, 128]") == (
        "--set shapes[0]=[64, 4100, 128]: shapes[0]: "
        "k = 4100: allowed: multiples of 128 up to 1048576; the nearest is 4096"
    )


def test_all_overrides_and_the_file_are_told_at_once() -> None:
    found = complaints(VALID.replace("trials: 50", "trials: no"), "seed=x", "shapes[9]=3")
    assert [line.split(": ")[0] for line in found] == ["job.yaml:11:9", "--set shapes[9]=3", "--set seed=x"]


def test_an_override_mends_what_is_wrong_in_the_file() -> None:
    assert parsed(VALID.replace("trials: 50", "trials: no"), "trials=3").trials == 3
