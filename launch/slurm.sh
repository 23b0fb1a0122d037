#!/usr/bin/env bash
# Train on several GPU nodes under SLURM, and queue again when preempted.
#
#   sbatch --nodes=2 launch/slurm.sh --config=configs/voc.py --machine.root=/data/VOCdevkit \
#       --workdir=/shared/runs/voc
#
# One process a node, with all of its GPUs. Submit from the repository, where .venv is.
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
set -uo pipefail

srun --kill-on-bad-exit=1 .venv/bin/python train.py \
    --model.dtype=bfloat16 --model.remat=convolutions --distributed=yes "$@"
code=$?
# 75: the run saved its state on the signal above, and is to go on.
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
