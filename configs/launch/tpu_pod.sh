#!/usr/bin/env bash
# A TPU pod slice: the same command on every worker. OUT must be a directory that all workers mount.
# Usage: tpu_pod.sh NAME ZONE OUT
set -euo pipefail
command="pd-jax distill --config configs/paper/pong.yaml --out $3 --resume --hosts.detect"
exec gcloud compute tpus tpu-vm ssh "$1" --zone "$2" --worker=all --command "$command"
