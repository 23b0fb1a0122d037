#!/usr/bin/env bash
# Train on all GPUs of this machine, in one process: it takes every device that JAX sees.
#
#   launch/gpus.sh --config=configs/voc.py --machine.root=/data/VOCdevkit
#
# CUDA_VISIBLE_DEVICES=0,1 chooses some. Interrupted (exit code 75), the same command resumes.
set -euo pipefail

exec .venv/bin/python train.py --model.dtype=bfloat16 --model.remat=convolutions "$@"
