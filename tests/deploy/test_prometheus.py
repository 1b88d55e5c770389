from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.prometheus import DEPLOY

FOLDER = DEPLOY / "prometheus"
ALERTS = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("command", ["check config prometheus.yml", "test rules rules.test.yml"])
def test_promtool_accepts_the_configuration_and_the_rules_pass_their_tests(command: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    done = subprocess.run(["promtool", *command.split()], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_it_is_and_leads_to_a_heading_of_the_runbooks(alert: dict[str, dict[str, str]]) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+)+", str(alert["alert"]))
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    document, anchor = alert["annotations"]["runbook_url"].split("#")
    headings = re.findall(r"^## (.*)$", Path(DEPLOY.parent, document).read_text(), re.MULTILINE)
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]
