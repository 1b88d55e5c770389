#!/usr/bin/env bash
# memcheck, racecheck and synccheck of every kernel on small shapes. Needs a GPU that compute-sanitizer can attach to.
set -euo pipefail
cd "$(dirname "$0")/../.."

check() {  # tool, flags of the build
  echo "== $1"
  export CUDAFLAGS=$2
  python3 -c 'from workers.build import build; build("cuda")'  # not under the tool, where it takes minutes
  compute-sanitizer --tool "$1" --error-exitcode 9 python3 - <<'PY'
import torch
from workers.gemm.grouped import GroupedInputs, multiply_groups
from workers.gemm.inputs import make_inputs
from workers.gemm.native import VARIANTS, multiply

SHAPES = (
    (9, 136, 2048), (100, 72, 2048), (41, 2112, 256), (140, 1544, 1024), (700, 576, 2048),
    (64, 7168, 256), (128, 7168, 256), (515, 7168, 256), (128, 4096, 256),
)
for m, n, k in SHAPES:
    inputs = make_inputs(m, n, k, seed=m, device="cuda")
    for variant in VARIANTS:
        for dtype in (torch.bfloat16, torch.float32):
            assert bool(multiply(inputs, dtype, variant).isfinite().all())

inputs = make_inputs(20, 256, 2048, seed=0, device="cuda")
weights, scales = inputs.mat_b.t()[None], inputs.scales_b.t()[None]
for tile_rows in (8, 16, 32, 64, 128):
    starts = range(0, 20, tile_rows)
    tiles = torch.tensor([[0, at, min(tile_rows, 20 - at), 0] for at in starts] + [[0] * 4], dtype=torch.int32).cuda()
    out = torch.empty(20, 256, device="cuda")
    multiply_groups(GroupedInputs(inputs.mat_a, weights, inputs.scales_a, scales, tiles, None), out, tile_rows)
    assert bool(out.isfinite().all())
print("ran")
PY
}

check memcheck ""
check synccheck ""
check racecheck -DFARM_EVERY_LANE_ARRIVES
