"""JUnit XML: one case per group, one per measured speed, and one for the run itself."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from orchestrator.report.words import (
    environment_words,
    exit_words,
    is_open,
    run_words,
    timing_words,
    verdict_words,
    witness_words,
)
from specs.result import Outcome, RunRecord, RunStatus, Speed, Verdict

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(record: RunRecord) -> str:
    """The run as JUnit XML, with no encoding declared: write it as UTF-8.

    A failure is an expectation that was not met or a required one that stayed open, an error is an infrastructure
    failure, and skipped is what could not be had or was not required.
    """
    cases = [_run_case(record)]
    if record.judgement is not None:
        cases += [_verdict_case(record.name, verdict) for verdict in record.judgement.verdicts]
        cases += [_speed_case(record.name, speed) for speed in record.judgement.speeds]
    suite = ET.Element("testsuite", name=_valid(f"farm {record.name}"), tests=str(len(cases)))
    for plural, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(plural, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("timestamp", record.created_at.strftime("%Y-%m-%dT%H:%M:%S"))
    if record.finished_at is not None:
        suite.set("time", f"{(record.finished_at - record.created_at).total_seconds():.3f}")
    suite.extend(cases)
    where = "\n".join(environment_words(environment) for environment in record.environments)
    ET.SubElement(suite, "system-out").text = _valid(f"{run_words(record)}\n{where}")
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return f'<?xml version="1.0"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _run_case(record: RunRecord) -> ET.Element:
    case = _case(record.name, "run", "all units ran")
    errors = record.judgement.errors if record.judgement else []
    if record.status is not RunStatus.COMPLETE:
        _add(case, "error", record.status, exit_words(record))
    elif errors:
        _add(case, "error", "gave up", "\n".join(errors))
    return case


def _verdict_case(suite: str, verdict: Verdict) -> ET.Element:
    name = f"{verdict.subject} {verdict.dtype} {verdict.property} [{verdict.stratum}]"
    case = _case(suite, verdict.variant, name)
    reason = verdict.reason or verdict_words(verdict)
    match verdict.outcome:
        case Outcome.ERROR:
            _add(case, "error", verdict.outcome, reason)
        case Outcome.UNSUPPORTED:
            _add(case, "skipped", verdict.outcome, reason)
        case Outcome.INCONCLUSIVE:
            _add(case, "failure" if is_open(verdict) else "skipped", verdict.outcome, reason)
        case _ if not verdict.met:
            told = f"expected {verdict.expected}, but it is {verdict_words(verdict)}"
            _add(case, "failure", verdict.outcome, told, witness_words(verdict))
        case _:
            ET.SubElement(case, "system-out").text = _valid(verdict_words(verdict))
    return case


def _speed_case(suite: str, speed: Speed) -> ET.Element:
    case = _case(suite, speed.variant, f"{speed.shape} {speed.dtype} accuracy and speed [{speed.stratum}]")
    if speed.failed_gates or speed.open_gates:
        _add(case, "failure", "gate", "; ".join(speed.failed_gates + speed.open_gates))
    told = f"{timing_words(speed.timing)}, relative error {speed.relative_error:.3e}"
    ET.SubElement(case, "system-out").text = _valid(told)
    return case


def _case(suite: str, variant: str, name: str) -> ET.Element:
    return ET.Element("testcase", classname=_valid(f"{suite}.{variant}"), name=_valid(name))


def _add(case: ET.Element, tag: str, kind: str, message: str, details: str | None = None) -> None:
    element = ET.SubElement(case, tag, message=_valid(message))
    if tag != "skipped":
        element.set("type", kind)
    element.text = _valid(details or message)


def _valid(text: str) -> str:
    """XML has no way to write most control characters, not even escaped; they are spelled out."""
    return _FORBIDDEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
