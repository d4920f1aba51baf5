#!/bin/sh
# Gather what a GPU machine without a package registry lacks, as wheels of Python 3.12 for x86-64, into a folder:
#
#     benchmarks/gpu_wheels.sh .whl
#
# There: python3 -m pip install --no-index --no-deps --target /tmp/site .whl/*.whl; PYTHONPATH=/tmp/site python3 -m benchmarks.gpu
# That machine brings torch, torchvision, numpy, scipy, scikit-learn, h5py, transformers, matplotlib, fsspec, click, numba and pytest.
# The versions are those of constraints.txt.
set -eu
folder=${1:?name a folder for the wheels}
root=$(cd "$(dirname "$0")/.." && pwd)
wheels="annotated-types av cffi donfig facenet-pytorch google-crc32c numcodecs pycparser pydantic pydantic-core
        resampy simplejpeg soundfile soxr typing-inspection xxhash zarr"
sources="torchvggish" # only published as source, without compiled parts

pinned() {
    grep -i -E "^$(echo "$1" | sed 's/[-_]/[-_]/g')==" "$root/constraints.txt" || { echo "constraints.txt does not pin $1" >&2; exit 1; }
}

platforms="--platform manylinux2014_x86_64 --platform manylinux1_x86_64"
for number in 39 35 34 31 28 27 24 17; do platforms="$platforms --platform manylinux_2_${number}_x86_64"; done
requirements=$(for package in $wheels; do pinned "$package"; done)
# shellcheck disable=SC2086
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $platforms \
    --dest "$folder" $requirements
for package in $sources; do
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$(pinned "$package")"
done
du -sh "$folder"
