#!/bin/bash
# What README.md says of installing and linking, with the machine's own gcc: a program
# that has nothing of this repository but what is installed, with the archive, with the
# shared library, and as pkg-config has it.
#
#     install_test.sh <example.c> <libzue.a> <libzue.so.1> <zue.h> <zue.pc>
set -euo pipefail

example=$(readlink -f "$1")
shift
work=$(mktemp -d "${TEST_TMPDIR:-/tmp}/install.XXXXXX")
prefix=$work/prefix
mkdir -p "$work/dist"
cp "$@" "$work/dist"
cp "$example" "$work/program.c"

cd "$work/dist"
install -D -m 644 zue.h "$prefix/include/zue.h"
install -D -m 644 libzue.a "$prefix/lib/libzue.a"
install -D -m 755 libzue.so.1 "$prefix/lib/libzue.so.1"
ln -sf libzue.so.1 "$prefix/lib/libzue.so"
install -D -m 644 zue.pc "$prefix/lib/pkgconfig/zue.pc"
sed -i "s|^prefix=.*|prefix=$prefix|" "$prefix/lib/pkgconfig/zue.pc"
cd "$work"

want="0: a = one
0: a = one
1: b = two
2: c = three
3 records"

# run <program> runs a program on a new log and looks at what it prints.
run() {
    local got
    got=$("./$1" "data-$1")
    if [ "$got" != "$want" ]; then
        printf '%s printed:\n%s\n' "$1" "$got" >&2
        exit 1
    fi
}

gcc -o by-archive program.c -I"$prefix/include" "$prefix/lib/libzue.a" -pthread
run by-archive

gcc -no-pie -o no-pie program.c -I"$prefix/include" "$prefix/lib/libzue.a" -pthread
run no-pie

gcc -o by-shared program.c -I"$prefix/include" -L"$prefix/lib" -Wl,-rpath,"$prefix/lib" -lzue
run by-shared
# It must not be the archive that was linked.
if [[ $(ldd by-archive) == *libzue* || $(ldd by-shared) != *"$prefix/lib/libzue.so.1"* ]]; then
    echo "the wrong library was linked" >&2
    exit 1
fi

if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
    # shellcheck disable=SC2046 # words are what is wanted
    gcc -o by-pkg-config program.c $(pkg-config --cflags --libs zue) -Wl,-rpath,"$prefix/lib"
    run by-pkg-config
else
    # shellcheck disable=SC2016 # it is the text of the file
    grep -qx 'Libs: -L${libdir} -lzue -pthread' "$prefix/lib/pkgconfig/zue.pc"
fi
