#!/usr/bin/env bash
# One step on the GPUs of several machines. Run this on each of them, with the same words:
#   HEAD=node1 NODES=2 DEVICES=4 docs/scripts/torchrun.sh three-stage --data /shared/ranzcr --out /shared/runs/three-stage
# HEAD is the first machine, which the others reach at PORT. The paths lie on a file system that all see.
set -euo pipefail
: "${HEAD:?the first of the machines, by name or address}" "${NODES:?how many machines}" "${DEVICES:?GPUs of each}"
exec torchrun --nnodes "$NODES" --nproc-per-node "$DEVICES" --rdzv-id "${ID:-cxrlines}" \
  --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29500}" \
  -m cxrlines train "$@" --nodes "$NODES" --devices "$DEVICES"
