#!/usr/bin/env bash
# What the library does on a GPU: one command of at most nine minutes that needs no network.
#
#     bash benchmarks/on_gpu.sh                              # all parts; writes to runs/benchmarks/gpu
#     bash benchmarks/on_gpu.sh --out FOLDER solvers epoch    # these parts alone
#     bash benchmarks/on_gpu.sh --small                      # small networks, for a CPU; to runs/benchmarks/gpu-small
#                                                            # (there every time is thrice as long)
#
# First benchmarks/machine.py looks at the device, its driver and the packages. Then every part named, or all of
# them, runs one of the scripts beside this file within a time of its own, which writes JSON and a table with the
# device's name: core_tests, training_step, solvers, epoch, seeds, sleep, scaling, training_step-float32. A name
# that ends in -float32 (any of them may) is the same part with JAX's default products in full precision rather than
# TF32, in FOLDER/float32. The library has its own in full either way: what changes is backpropagation, which figures
# are relative to. What TF32 would do to the library's solvers and their residuals is in the solvers' table.
#
# XLA takes minutes to compile a part for a GPU, on one core: a program of a few layers 3 to 30 s, seen on an H200. So
# on a machine of 8 cores or more those parts that do not report such seconds first compile side by side, and beside
# core_tests: a short round of each, whose programs are kept in FOLDER/programs and whose figures are thrown away. Then
# one part is measured after another; XLA has chosen its kernels while others ran.
#
# A part whose JSON is there is skipped, so that the same command goes on where the last one ended. Programs of a part
# that did not end are kept: its next run has them at once, and its seconds of compiling are then those of reading them.
# The exit status is 0 if all parts are done, 1 if one failed or was left for want of time, and 2 if nothing can run so.
# What a part printed is in FOLDER/logs.
#
# On a machine without a network it needs three things beside Python with JAX for its GPU and this repository (`src` is
# put on PYTHONPATH here):
#
# 1. This package's metadata and whatever benchmarks/machine.py calls missing or old, as wheels. Where there is a network,
#    with the Python version and platform of that machine (tyro and the two it needs are what is most often missing):
#
#        pip wheel --no-deps --wheel-dir wheels .
#        pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#            --dest wheels tyro docstring-parser typeguard
#
#    and there:
#
#        python3 -m pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=$PWD/site
#
#    tensorflow-datasets is not needed.
# 2. For the part epoch, MNIST: `dfc.download("mnist", "data")` where there is a network (four archives, 12 MB, in
#    data/mnist), and there `export DFC_JAX_DATA=$PWD/data`. A folder of TensorFlow Datasets, by TFDS_DATA_DIR, does as
#    well, and needs the packages of the extra `tfds`.
# 3. PYTHON=..., where `python3` is not the one that has JAX.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}"
all=(core_tests training_step solvers epoch seeds sleep scaling training_step-float32)
seconds=540 patience=1 small=() out='' parts=()

# What a part runs, the seconds that it may take, and what makes it a short round that others may run beside.
describe() {
    local size=("${small[@]}")
    short=()
    case ${1%-float32} in
        core_tests) limit=150 command=(core_tests.py) ;;
        training_step)
            limit=180 command=(training_step.py --rounds 7 --seconds 2 --methods Backprop DFA DFC-SSA "DFC-SS, Broyden")
            # In full precision, those of which a part is not the library's.
            [[ $1 == *-float32 ]] || command+=("DFC, closed form" "DFC, implicit, 10 steps" "Strong-DFC, single phase"
                "Sleep phase, expected")
            ;;
        solvers)
            limit=130 command=(solvers.py --rounds 5 --seconds 1 --precisions float32 default --regimes init-nudge
                late-nudge --solvers SSA "SS, Broyden" "DFC, closed form" "DFC, implicit, 10 steps")
            ;;
        epoch)
            limit=70 command=(epoch.py --rounds 3 --epochs 2) size=() short=(--rounds 1 --epochs 1)
            ((${#small[@]} == 0)) || command=(epoch.py --dataset digits --rounds 1 --epochs 1)
            ;;
        seeds) limit=60 command=(seeds.py) short=(--rounds 1 --epochs 2) ;;
        sleep) limit=70 command=(sleep.py --draws 200 --rounds 5) short=(--rounds 1) ;;
        scaling)
            limit=110 command=(scaling.py --rounds 5 --seconds 1 --width 256 1024 4096 --batch 1024 8192 --depth
                --outputs) short=(--rounds 1 --seconds 0.1)
            ;;
        *) return 1 ;;
    esac
    command=("$here/${command[0]}" "${command[@]:1}" "${size[@]}") limit=$((patience * limit))
}

# A part's figures go to a folder, and what it prints to a log, within so many seconds; its programs are kept. To be
# called in a process of its own: timeout takes its place, so that a signal to it reaches the script.
run() {
    local part=$1 limit=$2 folder=$3 log=$4
    shift 4
    export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/programs/$part}
    export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
    [[ $part != *-float32 ]] || export JAX_DEFAULT_MATMUL_PRECISION=float32
    mkdir -p "$(dirname "$log")" || exit
    exec timeout "${foreground[@]}" --kill-after=10 "$limit" "$python" "$@" --out "$folder" > "$log" 2>&1
}
foreground=(--foreground) # of a terminal, whose Ctrl-C then reaches the script

# Where a part's figures go.
folder_of() {
    if [[ $1 == *-float32 ]]; then echo "$out/float32"; else echo "$out"; fi
}

is_done() {
    [[ -e $(folder_of "$1")/${1%-float32}.json ]]
}

while (($#)); do
    case $1 in
        --small) small=(--small) patience=3 ;;
        --out) out=${2:?names no folder} && shift ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
        *)
            describe "$1" || { echo "error: $1 is no part; they are ${all[*]}" >&2 && exit 2; }
            parts+=("$1")
            ;;
    esac
    shift
done
out=${out:-runs/benchmarks/gpu${small:+-small}}
((${#parts[@]})) || parts=("${all[@]}")

if ! (run machine $((patience * 60)) "$out" "$out/logs/machine.log" "$here/machine.py" "${small[@]}"); then
    cat "$out/logs/machine.log" >&2
    exit 2
fi
cat "$out/logs/machine.log"
rm -rf "$out/programs/machine"

trap 'kill $(jobs -p) 2> /dev/null; rm -rf "$out/programs/first"' EXIT
if (($(nproc) >= 8)); then
    foreground=()
    for part in "${parts[@]}"; do
        describe "$part"
        ((${#short[@]})) && ! is_done "$part" || continue
        (
            export XLA_PYTHON_CLIENT_PREALLOCATE=false
            run "$part" $((patience * 150)) "$out/programs/first/$part" "$out/logs/$part-first.log" "${command[@]}" \
                "${short[@]}"
        ) &
    done
    foreground=(--foreground)
fi

status=0
for part in "${parts[@]}"; do
    [[ $part == core_tests ]] || wait
    describe "$part"
    folder=$(folder_of "$part") left=$((patience * seconds - SECONDS)) started=$SECONDS log=$out/logs/$part.log
    if is_done "$part"; then
        echo "$part: skipped, $folder/${part%-float32}.json is there"
        continue
    elif ((left < 20)); then
        echo "$part: left for the next time, $left s remain"
        status=1
        continue
    fi
    if (run "$part" $((limit < left ? limit : left)) "$folder" "$log" "${command[@]}"); then
        echo "$part: done in $((SECONDS - started)) s, see $folder/${part%-float32}.md"
        rm -rf "$out/programs/$part"
    else
        code=$?
        status=1
        reason="exit status $code" && ((code != 124 && code != 137)) || reason="out of time"
        echo "$part: failed after $((SECONDS - started)) s ($reason), see $log:"
        tail -n 3 "$log"
        ((code != 130)) || exit 130 # Ctrl-C
    fi
done
exit $status
