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

for m, n, k in ((9, 136, 2048), (100, 72, 2048), (41, 2112, 256), (140, 1544, 1024), (700, 576, 2048), (515, 7168, 256)):
    inputs = make_inputs(m, n, k, seed=m, device="cuda")
    for variant in VARIANTS:
        for dtype in (torch.bfloat16, torch.float32):
            assert bool(multiply(inputs, dtype, variant).isfinite().all())
print("ran")
PY
done
