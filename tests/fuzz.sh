#!/usr/bin/env bash
# The engine under libFuzzer: tests/fuzz.sh [seconds [all]], with a handful of maps or with all. Inputs that reach
# something new are kept in build/; an input that fails is named at the end, and played back by
# build/fuzz-<maps>/fuzz_engine FILE. FUZZ_SEED: a number other than 0 gives the same inputs each time.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-45} maps=${2:-few} compiler=clang++-16 build=${FUZZ_BUILD:-build/fuzz-${2:-few}}
for tool in $compiler cmake ninja; do
  command -v "$tool" >/dev/null && continue
  echo "skipped: no $tool; needed are cmake, ninja and Debian's clang-16 and libclang-rt-16-dev"
  exit 0
done
only="Identity;Affine;Log;Interval;Simplex"
[ "$maps" = few ] || only=""
mkdir -p "$build/corpus"
cmake -S . -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DFASTMAP_FUZZ=ON \
  -DFASTMAP_SANITIZE=address,undefined "-DFASTMAP_ONLY=$only" >/dev/null
cmake --build "$build"
# A step with 12 000 elements on each instruction set takes a while under sanitizers: 30 seconds are a hang.
UBSAN_OPTIONS=print_stacktrace=1 "$build/fuzz_engine" -seed="${FUZZ_SEED:-0}" -max_total_time="$seconds" -timeout=30 \
  -rss_limit_mb=4096 -max_len=400 -len_control=0 -artifact_prefix="$build/" "$build/corpus" tests/fuzz
