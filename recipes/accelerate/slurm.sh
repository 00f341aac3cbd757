#!/usr/bin/env bash
# Submits a whole run as Slurm jobs, on one machine or several: every phase is a job that waits for the one before it.
#
#   NODES=2 GPUS=8 bash slurm.sh RECIPE RUN_DIR ITERATIONS [--setting value ...]
#
# RUN_DIR must be on storage that all machines share. Generation and evaluation run under CONFIG, with full replicas of the model;
# training runs under TRAIN_CONFIG. Both are accelerate configurations, by default those next to this script; NODES and GPUS determine
# the number of machines and processes. SHARDS=32 generates in 32 parts, each a task of its own on one machine, which start as machines
# become free, and merges them. BASELINE=1 plays the recipe's baseline arms, DPO=1 its DPO on top, TEST=1 measures its test set
# at the end, PUSH=1 pushes to the Hub after every iteration and at the end.
# SBATCH_OPTIONS is passed to sbatch (account, partition, time, and --cpus-per-task, the CPUs per machine: many clusters give only one
# by default), PYTHON is the interpreter (default: python), PORT a free port.
#
# If a phase fails, or the gate ends the run, Slurm removes the remaining jobs. Run the same command to submit them again: finished
# phases return at once. If the gate has ended the run, launch `dpo` and `test` by hand. No phase waits for a push, so a failed push
# holds nothing up.
set -euo pipefail

export NODES=${NODES:-1} GPUS=${GPUS:-8} PORT=${PORT:-29500} PYTHON=${PYTHON:-python} SHARDS=${SHARDS:-}
script=${SPIN_TRL_SLURM:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")}

case "${1:-}" in
--job) # in a job, on its first machine: start one launcher per machine, each with the address of the first
    shift
    HEAD_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    export HEAD_NODE
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-${SRUN_CPUS_PER_TASK:-}} # srun does not inherit it from the job
    [ -n "$SRUN_CPUS_PER_TASK" ] || unset SRUN_CPUS_PER_TASK
    exec srun --kill-on-bad-exit=1 --ntasks "$NODES" --ntasks-per-node 1 bash "$script" --machine "$@"
    ;;
--machine) # on every machine of a job
    config=$2
    shift 2
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then set -- "$@" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS"; fi
    exec "$PYTHON" -m accelerate.commands.launch --config_file "$config" --num_machines "$NODES" \
        --num_processes $((NODES * GPUS)) --machine_rank "$SLURM_PROCID" \
        --main_process_ip "$HEAD_NODE" --main_process_port "$PORT" -m spin_trl "$@"
    ;;
esac

if [ $# -lt 3 ]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$script" >&2
    exit 2
fi
recipe=$1 run=$2 iterations=$3
shift 3
export SPIN_TRL_SLURM=$script
here=$(dirname "$script")
one=${CONFIG:-$here/ddp.yaml} # for jobs on one machine
machines=$([ "$NODES" -gt 1 ] && echo two-machines || echo ddp)
sharded=$([ "$NODES" -gt 1 ] && echo two-machines-zero3 || echo zero3)
CONFIG=${CONFIG:-$here/$machines.yaml} TRAIN_CONFIG=${TRAIN_CONFIG:-$here/$sharded.yaml}

before= job=
# send NAME CONFIG ARGUMENTS...: submit a job on all machines that runs after the previous phase.
send() {
    local name=$1
    shift
    # shellcheck disable=SC2086 - options are separate words
    job=$(sbatch --parsable --job-name "$name" --nodes "$NODES" --ntasks-per-node 1 --gpus-per-node "$GPUS" \
        ${ARRAY:+--array="1-$ARRAY"} --output "$run/slurm-%x-%j.txt" --kill-on-invalid-dep=yes ${before:+--dependency="afterok:$before"} \
        ${SBATCH_OPTIONS:-} "$script" --job "$@")
    job=${job%%;*} # Slurm appends the cluster's name if there are several
    echo "$name: job $job"
}
# submit NAME CONFIG ARGUMENTS...: submit a phase that the next one waits for.
submit() {
    send "$@"
    before=$job
}

# generate T: submit the generate phase of iteration T, or its parts and the job that merges them.
generate() {
    if [ -z "$SHARDS" ]; then
        submit "generate-$1" "$CONFIG" generate "$run" --iteration "$1"
        return
    fi
    ARRAY=$SHARDS NODES=1 submit "generate-$1" "$one" generate "$run" --iteration "$1"
    NODES=1 GPUS=1 submit "merge-$1" "$here/single.yaml" merge "$run" --iteration "$1"
}

# push NAME: submit a push that no phase waits for.
push() {
    if [ -n "${PUSH:-}" ]; then NODES=1 GPUS=1 send "push-$1" "$here/single.yaml" push "$run"; fi
}

mkdir -p "$run"
submit start "$CONFIG" start "$recipe" --run_dir "$run" --num_iterations "$iterations" "$@"
for ((t = 0; t < iterations; t++)); do
    generate "$t"
    submit "train-$t" "$TRAIN_CONFIG" train "$run" --iteration "$t"
    submit "evaluate-$t" "$CONFIG" evaluate "$run" --iteration "$t"
    if [ -n "${BASELINE:-}" ]; then # trained first, then measured with full replicas
        submit "baseline-$t" "$TRAIN_CONFIG" baseline "$run" --iteration "$t"
        submit "baseline-figures-$t" "$CONFIG" baseline "$run" --iteration "$t"
    fi
    push "$t"
done
if [ -n "${DPO:-}" ]; then # trained first, then measured with full replicas
    submit dpo "$TRAIN_CONFIG" dpo "$run"
    submit dpo-figures "$CONFIG" dpo "$run"
fi
if [ -n "${TEST:-}" ]; then submit test "$CONFIG" test "$run"; fi
if [ -n "${DPO:-}${TEST:-}" ]; then push end; fi
