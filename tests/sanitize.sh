#!/usr/bin/env bash
# The Python tests of native code, on a module that is built under sanitizers:
# tests/sanitize.sh [address,undefined | thread [arguments of pytest]]. Needs GCC and an environment for the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-address,undefined}
shift || true
work=$PWD/build/sanitize-${kind//,/-} # objects as deep as those of other builds, so that ccache knows them
[ $# -gt 0 ] || set -- tests/test_{arrays,half,native,programs,rows,step_errors,structured,subspace,torch}.py

# An environment of its own, which sees the packages of this one but not its fastmap.
python -m venv --without-pip "$work-venv"
python -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
  >"$(echo "$work"-venv/lib/python*/site-packages)/those.pth"
site=$(echo "$work"-venv/lib/python*/site-packages)
python -m pip install -q --no-build-isolation --no-deps --upgrade --target "$site" . \
  -C build-dir="$work" -C cmake.define.FASTMAP_SANITIZE="$kind"

run=(env)
case $kind in
  address*)
    # Python and NumPy keep memory until the process ends: leaks are not looked for.
    run+=(ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1
      "LD_PRELOAD=$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)")
    ;;
  thread)
    # Python, NumPy and torch are built without: what they do among themselves cannot be judged. setarch: TSan of
    # GCC 12 knows no more than 28 random bits in addresses.
    run+=(TSAN_OPTIONS=ignore_noninstrumented_modules=1:die_after_fork=0:halt_on_error=1
      "LD_PRELOAD=$(g++ -print-file-name=libtsan.so)" setarch -R)
    ;;
esac
# Sanitizers take memory of their own, so that its peak says nothing.
"${run[@]}" "$work-venv/bin/python" -m pytest -q -p no:cacheprovider --deselect \
  tests/test_native.py::test_peak_memory_is_the_output "$@"
