#!/usr/bin/env bash
# Builds the stand-in driver into FOLDER: a program with `LD_LIBRARY_PATH=FOLDER` finds a device of
# host memory.
#
#   build.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
# What is C++ alone.
for kernel in pages sums; do
    sed 's/extern "C" //' "$here/../src/cuda/$kernel.cu" >"$1/$kernel.c"
done
cc -O1 -std=c11 -Wall -Wextra -Werror -Wno-unknown-pragmas -fvisibility=hidden -shared -fPIC \
    -pthread -I "$1" -o "$1/libcuda.so.1" "$here/driver.c"
ln -sf libcuda.so.1 "$1/libcuda.so"
