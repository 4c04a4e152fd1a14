#!/usr/bin/env bash
# Builds the sdist and, from it, the wheel; installs the wheel into a fresh environment; uses it.
# An editable install reads the source folder, so it hides what a wheel lacks.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The files of the repository alone: what an earlier build has left must not get into the sdist.
mkdir "$work/source" "$work/elsewhere"
git ls-files --cached --others --exclude-standard -z leco tests/test_*.py \
    pyproject.toml README.md LICENSE MANIFEST.in |
    tar --create --null --files-from - --ignore-failed-read | tar --extract --directory "$work/source"

"${PYTHON:-python3}" -m venv "$work/build"
"$work/build/bin/python" -m pip install --quiet 'build>=1'
"$work/build/bin/python" -m build --outdir "$work/dist" "$work/source" >"$work/log" ||
    { cat "$work/log"; exit 1; }

"${PYTHON:-python3}" -m venv "$work/fresh"
"$work/fresh/bin/python" -m pip install --quiet --constraint constraints.txt "$work"/dist/*.whl
cd "$work/elsewhere"
"$work/fresh/bin/python" -I "$root/.ci/wheel_check.py" "$root" "$work"/dist/*.whl "$work"/dist/*.tar.gz
