#!/usr/bin/env bash
# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
# Train with several processes: one for each GPU, or CPU processes on gloo.
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Several machines: start it on each, with NNODES (how many), NODE_RANK (0, 1,
# ...), MASTER_ADDR (the first one's address) and PORT (29500, free there):
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh ... 8
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 tools/dist_train.sh ... 8
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
if [ "${NNODES:-1}" -gt 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
    echo "error: NNODES=$NNODES needs MASTER_ADDR, the first machine's" \
        "address" >&2
    exit 2
fi
# SIGTERM, SIGUSR1 and SIGINT go to the training itself, which finishes its
# step, writes a checkpoint and leaves word here; the exit code is then 75, and
# --resume goes on. torchrun would end it after 30 seconds.
DITO_REQUEUE_FILE=$(mktemp)
export DITO_REQUEUE_FILE
trap 'rm -f "$DITO_REQUEUE_FILE"' EXIT
${PYTHON:-python} "$(dirname "$0")/dist_run.py" \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}" &
RUN=$!
pass_on() {
    read -ra PROCESSES <"/proc/$RUN/task/$RUN/children" || true
    kill -s "$1" "${PROCESSES[@]:-$RUN}" 2>/dev/null || true
}
trap 'AGAIN=1; pass_on TERM' TERM
trap 'AGAIN=1; pass_on INT' INT
trap 'AGAIN=1; pass_on USR1' USR1
AGAIN=1
while [ -n "$AGAIN" ]; do # a signal ends the waiting alone
    AGAIN=
    CODE=0
    wait "$RUN" || CODE=$?
done
if [ -s "$DITO_REQUEUE_FILE" ]; then
    CODE=75
fi
exit "$CODE"
