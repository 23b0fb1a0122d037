#!/usr/bin/env bash
# Train on all workers of a Cloud TPU VM slice. They find each other by JAX's own detection.
#
#   TPU=my-slice ZONE=us-west4-a launch/tpu_vm.sh --config=configs/voc.py --machine.root=/data/VOCdevkit \
#       --workdir=/shared/runs/voc       # a folder that all workers see
#
# The repository and its .venv (with `pip install "jax[tpu]"`) are at ~/deeplab_jax on every worker.
# Interrupted (exit code 75), the same command resumes; so a queued resource may call it again.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}"

arguments=$(printf ' %q' --model.dtype=bfloat16 --distributed=yes "$@")
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
    --command="cd ~/deeplab_jax && .venv/bin/python train.py$arguments"
