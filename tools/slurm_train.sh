#!/usr/bin/env bash
# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
# Train as a Slurm job.
#   tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR [arguments of train.py]
# Environment: GPUS (in all), GPUS_PER_NODE, CPUS_PER_TASK, PORT (of the first
# node, 29500), SRUN_ARGS. Machines are GPUS / GPUS_PER_NODE; they meet at the
# first one of the job.
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB CONFIG WORK_DIR [arguments]" >&2
    exit 2
fi
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
GPUS_PER_NODE=$((GPUS < GPUS_PER_NODE ? GPUS : GPUS_PER_NODE))
if [ $((GPUS % GPUS_PER_NODE)) -ne 0 ]; then
    echo "GPUS=$GPUS is no multiple of GPUS_PER_NODE=$GPUS_PER_NODE" >&2
    exit 2
fi
export MASTER_PORT=${PORT:-29500}
# SRUN_ARGS holds several words.
# shellcheck disable=SC2086
srun -p "$1" \
    --job-name="$2" \
    --gres="gpu:${GPUS_PER_NODE}" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" \
    --work-dir="$4" --launcher=slurm "${@:5}"
