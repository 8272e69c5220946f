#!/usr/bin/env bash
# Which branches of Python and lines of C++ the tests run: tests/coverage.sh [arguments of pytest]. Needs GCC and an
# environment for the tests; build/coverage/ has the pages of both reports.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/build/coverage # objects as deep as those of other builds, so that ccache knows them
# Counters change the code of kernels and take memory.
[ $# -gt 0 ] || set -- tests --ignore tests/test_binary.py \
  --deselect tests/test_native.py::test_peak_memory_is_the_output

# An environment of its own, which sees the packages of this one but not its fastmap.
python -m venv "$work-venv"
site=$(echo "$work"-venv/lib/python*/site-packages)
python -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' >"$site/those.pth"
"$work-venv/bin/python" -m pip install -q --upgrade coverage gcovr
python -m pip install -q --no-build-isolation --no-deps --upgrade --target "$site" . \
  -C build-dir="$work" -C cmake.define.FASTMAP_COVERAGE=ON
find "$work" -name '*.gcda' -delete

export COVERAGE_FILE=$work/.coverage
coverage() { "$work-venv/bin/python" -m coverage "$@"; }
coverage erase
failed=0
coverage run -m pytest -q -p no:cacheprovider "$@" || failed=1
coverage combine -q
coverage html -q -d "$work/python"
coverage report --skip-covered --sort=cover
mkdir -p "$work/cpp"
# A line of a template counts once. Kernels run some lines more than 2^32 times, and threads that count at once may spoil
# a number.
"$work-venv/bin/gcovr" --root . --filter csrc/ --object-directory "$work" --merge-lines \
  --html-details "$work/cpp/index.html" --txt - --gcov-suspicious-hits-threshold=0 \
  --gcov-ignore-parse-errors=negative_hits.warn
exit $failed
