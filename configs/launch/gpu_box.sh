#!/usr/bin/env bash
# One machine with any number of GPUs: one process, which uses all of them. A killed job goes on when run again.
set -euo pipefail
exec pd-jax distill --config configs/paper/pong.yaml --out runs/pong --resume "$@"
