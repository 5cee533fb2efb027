#!/bin/bash
# The archive and the shared library export the functions of zue.h, and nothing else.
#
#     symbols_test.sh <zue.h> <libzue.a> <libzue.so.1>
set -euo pipefail

want=$(grep -oE '^[a-z].*\bzue_[a-z_]+\(' "$1" | grep -oE 'zue_[a-z_]+\(' | tr -d '(' | sort)
if [ "$(wc -l <<<"$want")" -lt 20 ]; then
    printf 'zue.h seems to declare only:\n%s\n' "$want" >&2
    exit 1
fi

# same <what> compares what nm says with what is wanted.
same() {
    if ! diff <(printf '%s\n' "$want") <(awk 'NF == 3 { print $3 }' | sort) >&2; then
        echo "$1: more (>) or less (<) than zue.h has" >&2
        exit 1
    fi
}

nm -g --defined-only "$2" | same libzue.a
nm -D --defined-only "$3" | same libzue.so
if ! readelf -d "$3" | grep -q 'soname: \[libzue.so.1\]'; then
    echo "libzue.so has not the name libzue.so.1" >&2
    exit 1
fi
# Where a program loads it by dlopen, little is left of the memory for this.
size=$(($(readelf -lW "$3" | awk '$1 == "TLS" { print $6 }')))
if [ "$size" -gt 64 ]; then
    echo "libzue.so has thread-local variables of $size bytes" >&2
    exit 1
fi

# What writes to memory of the program's stores no pointers as Go does it, with a barrier
# that looks at what was there before.
for function in main.pack 'main.(*packer).headers' main.zueGoRead; do
    code=$(objdump -d --disassemble="$function" "$3")
    if [ "$(grep -c '^ ' <<<"$code")" -lt 20 ] || grep -q gcWriteBarrier <<<"$code"; then
        echo "$function is not there, or has a write barrier" >&2
        exit 1
    fi
done
