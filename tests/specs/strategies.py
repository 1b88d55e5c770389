"""Hypothesis strategies for jobs, as the plain values that YAML holds."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from specs.device import Device
from specs.job import OWN_VARIANTS, PEER_VARIANTS, Dtype, Expectation, Mode, Stress
from specs.kernel_job import KERNEL_PROPERTIES, ShapeEntry
from specs.kinds import SHORT_FORMS
from specs.model_job import MODEL_PROPERTIES, CollectiveName, Pack, PrefixUnit
from specs.shapes import FIXED_SETS, WEIGHT_SETS

_words = [*OWN_VARIANTS, *PEER_VARIANTS, "python:package.module:function", "python:a:b"]
_expectations = st.sampled_from([str(it) for it in Expectation])
_expect = _expectations | st.dictionaries(st.sampled_from([str(it) for it in KERNEL_PROPERTIES]), _expectations)


def _some(enum: Any) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from([str(it) for it in enum]), min_size=1, unique=True)


@st.composite
def _variants(draw: st.DrawFn) -> list[object]:
    names = draw(st.lists(st.sampled_from(_words), min_size=1, unique=True))
    return [
        draw(st.just(name) | st.fixed_dictionaries({"name": st.just(name)}, optional={"expect": _expect}))
        for name in names
    ]


_sizes = st.integers(1, 1 << 20)
_mkn = st.tuples(_sizes, st.integers(1, 8192).map(lambda it: it * 128), st.integers(1, 131072).map(lambda it: it * 8))
_shape = st.one_of(
    _mkn.map(list),
    st.sampled_from([*FIXED_SETS]),
    st.fixed_dictionaries({"mkn": _mkn.map(list)}, optional={"required": st.booleans()}),
    st.fixed_dictionaries({"set": st.sampled_from([*WEIGHT_SETS]), "m": st.lists(_sizes, min_size=1, max_size=3)}),
)


def _entry(shape: object) -> str:
    """Short and long forms of one entry are a repeat."""
    return ShapeEntry.model_validate(SHORT_FORMS["shapes"](shape)).model_dump_json()


_seconds = st.floats(0.001, 86400)


@st.composite
def job_values(draw: st.DrawFn) -> dict[str, Any]:
    """What a valid spec holds, long and short forms mixed."""
    variants = draw(_variants())
    names = [it["name"] if isinstance(it, dict) else it for it in variants]
    speed = st.fixed_dictionaries({"against": st.sampled_from(names)}, optional={"at_least": st.floats(0.01, 100)})
    required = {
        "version": st.just(1),
        "kind": st.just("kernel"),
        "op": st.just("fp8_blockwise_gemm"),
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        "variants": st.just(variants),
        "shapes": st.lists(_shape, min_size=1, max_size=4, unique_by=_entry),
    }
    optional = {
        "description": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50),
        "seed": st.integers(0, (1 << 32) - 1),
        "trials": st.integers(1, 10_000_000),
        "device": st.sampled_from([str(it) for it in Device]),
        "timeouts": st.fixed_dictionaries({}, optional={"wait": _seconds, "unit": _seconds}),
        "dtypes": _some(Dtype),
        "properties": _some(KERNEL_PROPERTIES),
        "stress": _some(Stress),
        "processes": st.integers(2, 64),
        "gates": st.fixed_dictionaries(
            {}, optional={"accuracy": st.floats(1, 1e6) | st.none(), "speed": speed | st.none()}
        ),
    }
    return draw(st.fixed_dictionaries(required, optional=optional))


_name = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
_model_expect = _expectations | st.dictionaries(st.sampled_from([str(it) for it in MODEL_PROPERTIES]), _expectations)
_target = st.fixed_dictionaries(
    {"name": _name},
    optional={
        "gemm": st.sampled_from(_words) | st.none(),
        "collective": st.sampled_from([str(it) for it in CollectiveName]),
        "deterministic": st.booleans(),
        "tp": st.integers(1, 1024),
        "expect": _model_expect,
    },
)
_source = st.fixed_dictionaries({"path": st.sampled_from(["/models/r1", "r1"])}) | st.fixed_dictionaries(
    {
        "random": st.fixed_dictionaries(
            {"preset": st.sampled_from(["deepseek-v3-nano", "deepseek-v3-mini", "deepseek-v3-layer"])},
            optional={"seed": st.integers(0, (1 << 32) - 1)},
        )
    }
)


@st.composite
def model_job_values(draw: st.DrawFn) -> dict[str, Any]:
    """What a valid spec of a model holds."""
    required = {
        "version": st.just(1),
        "kind": st.just("model"),
        "name": _name,
        "model": _source,
        "targets": st.lists(_target, min_size=1, max_size=4, unique_by=lambda target: str(target["name"])),
    }
    optional = {
        "trials": st.integers(1, 10_000),
        "modes": _some(Mode),
        "dtype": st.sampled_from(["bf16", "fp32"]),
        "temperature": st.floats(0, 100),
        "prefix_lengths": st.lists(st.integers(1, 10_000_000), min_size=1, unique=True),
        "prefix_unit": st.sampled_from([str(it) for it in PrefixUnit]),
        "compat": st.just("sglang") | st.none(),
        "pack": st.sampled_from([str(it) for it in Pack]),
        "timeouts": st.fixed_dictionaries({}, optional={"wait": _seconds, "rendezvous": _seconds, "load": _seconds}),
    }
    return draw(st.fixed_dictionaries(required, optional=optional))
