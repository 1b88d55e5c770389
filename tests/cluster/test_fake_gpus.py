"""Placement over GPUs that Ray believes in, on a Ray of its own: ranks that are masked, and that are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_ASSEMBLE = """
import json, os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from orchestrator.cluster import Cluster
from orchestrator.gang import Gang
from specs.errors import InfrastructureError
from specs.device import Device
from specs.unit import Capacity
from tests.orchestrator.builders import model_job

ray.init(num_cpus=4, num_gpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
cluster = Cluster(ray.nodes())
capacity = Capacity(device=Device.CPU, workers=1, cpus_per_worker=1, gpus_per_worker=1)
targets = [{"name": "two", "tp": 2}, {"name": "four", "tp": 4, "collective": "ordered"}, {"name": "eight", "tp": 8}]
masks = {}
for name, masked in (("four", True), ("two", False)):
    job = model_job(targets=targets, timeouts={"wait": 20.0}, mask_devices=masked)
    gang = Gang.assemble(cluster, job, job.target(name), capacity, 0)
    masks[name] = [environment.visible_devices for environment in gang.environments]
    gang.dismiss()
try:
    hasty = model_job(targets=targets, timeouts={"wait": 1.0})
    Gang.assemble(cluster, hasty, hasty.target("eight"), capacity, 0)
except InfrastructureError as error:
    print(json.dumps({"masks": masks, "eight": str(error)}))
ray.shutdown()
"""


def test_four_ranks_have_a_gpu_each_and_eight_find_no_room() -> None:
    done = subprocess.run([sys.executable, "-c", _ASSEMBLE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found["masks"]["four"]) == ["0", "1", "2", "3"]
    assert found["masks"]["two"] == [os.environ.get("CUDA_VISIBLE_DEVICES")] * 2
    assert "its 8 ranks need 1 CPU and 1 GPU each, on one node. The nodes have 4 CPU, 4 GPU" in found["eight"]
