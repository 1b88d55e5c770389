#!/usr/bin/env bash
# memcheck, racecheck and synccheck of every kernel on small shapes. Needs a GPU that compute-sanitizer can attach to.
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in memcheck racecheck synccheck; do
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 9 python3 - <<'PY'
import torch
from workers.gemm.inputs import make_inputs
from workers.gemm.native import VARIANTS, multiply

for m, n, k in ((9, 136, 2048), (100, 72, 2048), (140, 1544, 1024), (1100, 1024, 2048)):
    inputs = make_inputs(m, n, k, seed=m, device="cuda")
    for variant in VARIANTS:
        assert bool(multiply(inputs, torch.float32, variant).isfinite().all())
print("ran")
PY
done
