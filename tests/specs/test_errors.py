from __future__ import annotations

from specs.errors import ExitCode, Problem, SpecError, UsageError, nearest, printable, shown


def test_a_problem_is_one_line_that_editors_can_follow() -> None:
    assert str(Problem("f.yaml", 12, 5, "shapes[1].mkn", "wrong")) == "f.yaml:12:5: shapes[1].mkn: wrong"
    assert str(Problem("f.yaml", None, None, "", "empty")) == "f.yaml: empty"


def test_a_spec_error_is_a_usage_error_with_a_line_for_each_problem() -> None:
    problem = Problem("f.yaml", 1, 2, "a", "wrong")
    error = SpecError([problem, problem])
    assert str(error) == "2 problems in the spec\nf.yaml:1:2: a: wrong\nf.yaml:1:2: a: wrong"
    assert str(SpecError([problem])).startswith("a problem in the spec\n")
    assert isinstance(error, UsageError) and error.exit_code is ExitCode.USAGE


def test_nearest_looks_past_case_and_dashes_and_is_silent_where_nothing_is_near() -> None:
    assert nearest("Run-To-Run", ["run_to_run", "cross_process"]) == "; the nearest is run_to_run"
    assert nearest("trails", ["trials", "variants"]) == "; the nearest is trials"
    assert nearest("gpu", ["auto", "cpu", "cuda"]) == ""
    assert nearest("x" * 1_000_000, ["x"]) == ""


def test_what_is_shown_can_be_printed_anywhere_and_is_short() -> None:
    assert printable("a\x1b[2J\udcff\nü") == "a\\x1b[2J\\udcff\\nü"
    assert shown("x" * 60) == "x" * 60
    assert len(shown("x" * 61)) == 56
