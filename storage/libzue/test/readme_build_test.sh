#!/bin/bash
# README.md's commands that make the library by Go alone, but for Go itself: the archive
# that it would make is given.
#
#     readme_build_test.sh <README.md> <zue.h> <zue.pc.in> <raw archive> <symbols_test.sh>
set -euo pipefail

readme=$(readlink -f "$1") symbols=$(readlink -f "$5")
raw=$(readlink -f "$4")
export raw
work=$(mktemp -d "${TEST_TMPDIR:-/tmp}/readme.XXXXXX")
export TMPDIR=$work
mkdir -p "$work/storage/libzue"
cp "$2" "$3" "$work/storage/libzue"

cd "$work"
sed -n '/^    cd storage\/libzue$/,/^    ls /s/^    //p' "$readme" >commands
if [ "$(grep -c '^go build ' commands)" != 1 ]; then
    echo "README.md has not the commands that this looks for" >&2
    exit 1
fi
# shellcheck disable=SC2016 # the variables are the commands'
sed -i 's|^go build .*|cp "$raw" "$out/raw.a"|' commands
export where=$work/where
# shellcheck disable=SC2016
echo 'echo "$out" >"$where"' >>commands
bash -euo pipefail commands >listed
out=$(cat where)
for file in libzue.a libzue.so.1 zue.h zue.pc; do grep -qx "$file" listed; done
"$symbols" "$out/zue.h" "$out/libzue.a" "$out/libzue.so.1"
