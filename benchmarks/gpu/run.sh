#!/usr/bin/env bash
# The whole GPU benchmark in one call, at most 9 minutes:  benchmarks/gpu/run.sh OUT [--tiny]
# See README.md beside this file. Nothing is installed but the wheels, and those into a temporary folder.
set -uo pipefail
out=$(realpath -m "${1:?usage: run.sh OUT [--tiny]}")
shift
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
for wheel in benchmarks/gpu/wheels/*.whl; do
    [ -e "$wheel" ] || continue
    # one by one, so that one that does not fit leaves the others
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheel" ||
        echo "not installed: $wheel" >&2
done

export PYTHONPATH="$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH}"
if [[ " $* " == *" --tiny "* ]]; then
    export OMP_NUM_THREADS=1 # more threads only slow tiny models
fi
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$python" benchmarks/gpu/run.py "$out" "$@"
