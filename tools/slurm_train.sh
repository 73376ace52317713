#!/usr/bin/env bash
# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
# Train as a Slurm job.
#   tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR [arguments of train.py]
# Environment: GPUS (in all), GPUS_PER_NODE, CPUS_PER_TASK, PORT (of the first
# node, 29500), SRUN_ARGS. Machines are GPUS / GPUS_PER_NODE; they meet at the
# first one of the job.
#
# With SUBMIT=1 the job is queued by sbatch (SBATCH_ARGS) and this returns. GRACE
# seconds (300) before its time is over, or when it is pre-empted, the training
# finishes its step, writes a checkpoint and exits with 75; the job is queued
# again and resumes by itself. scancel ends it for good.
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
GRACE=${GRACE:-300}
ALLOCATION=(
    -p "$1"
    --job-name="$2"
    --gres="gpu:${GPUS_PER_NODE}"
    --ntasks="$GPUS"
    --ntasks-per-node="$GPUS_PER_NODE"
    --cpus-per-task="${CPUS_PER_TASK:-5}"
)
# In the queue this file is a copy at another place.
export DITO_TOOLS=${DITO_TOOLS:-$(cd "$(dirname "$0")" && pwd)}
# SRUN_ARGS and SBATCH_ARGS hold several words.
# shellcheck disable=SC2086
if [ -n "${SUBMIT:-}" ]; then
    export SUBMIT='' DITO_QUEUED=1
    exec sbatch "${ALLOCATION[@]}" --requeue --open-mode=append \
        --signal="TERM@$GRACE" ${SBATCH_ARGS:-} "$0" "$@"
fi
if [ -n "${DITO_QUEUED:-}" ]; then
    # The allocation is the job's. scancel signals this shell too.
    ALLOCATION=()
    CANCELLED=
    trap 'CANCELLED=1' TERM
fi
RESUME=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    RESUME=(--resume)
fi
CODE=0
# shellcheck disable=SC2086
srun ${ALLOCATION[@]+"${ALLOCATION[@]}"} \
    --kill-on-bad-exit=1 \
    --signal="TERM@$GRACE" \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$DITO_TOOLS/train.py" "$3" \
    --work-dir="$4" --launcher=slurm "${@:5}" \
    ${RESUME[@]+"${RESUME[@]}"} || CODE=$?
if [ "$CODE" -eq 75 ] && [ -n "${DITO_QUEUED:-}" ] && [ -z "$CANCELLED" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$CODE"
