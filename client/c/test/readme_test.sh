#!/bin/bash
# README.md has the example as it is; its gcc line builds it; and it prints what README.md says
# against a real server, and why when there is none. Arguments: README.md, example.c, zuenet.h, zuenet.c, zue-server.
set -euo pipefail

readme=$(realpath "$1")
example=$(realpath "$2")
server=$(realpath "$5")
dir=$(mktemp -d "${TEST_TMPDIR:-/tmp}/readme.XXXXXX")
cp "$3" "$4" "$dir"
cd "$dir"

# The program, between ```c and ```.
# shellcheck disable=SC2016 # the backquotes are the text's
sed -n '/^```c$/,/^```$/{/^```/!p}' "$readme" >program.c
diff "$example" program.c

line=$(sed -n 's/^    \(gcc .*program\.c.*\)$/\1/p' "$readme" | head -1)
[ -n "$line" ]
echo "$line"
eval "$line"

"$server" 0 "$dir/data" 2>server.log &
pid=$!
trap 'kill -TERM $pid 2>/dev/null || true; wait $pid || true' EXIT
for _ in $(seq 100); do
    port=$(sed -n 's/.*address=127\.0\.0\.1:\([0-9]*\).*/\1/p' server.log)
    [ -z "$port" ] || break
    sleep 0.1
done
[ -n "$port" ]

./program 127.0.0.1 "$port" >got
sed -n '/^It prints/,/^##/{s/^    //p}' "$readme" >want
diff want got

# Nobody listens there any more.
trap - EXIT
kill -TERM "$pid"
wait "$pid"
if ./program 127.0.0.1 "$port" 2>complaint; then
    echo "it connects to a server that has ended" >&2
    exit 1
fi
cat complaint
grep -q '^connect: .*: Connection refused$' complaint
