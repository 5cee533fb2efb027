#!/bin/bash
# Tests tools/bazel and setup.sh, in a scratch cache.
#
#   setup_test.sh          what they say and when they do nothing; seconds, no network
#   setup_test.sh --slow   also real set-ups: two at once, killed at each step and
#                          resumed; minutes, and needs Debian's packages and Go's proxy
set -euo pipefail

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
bazel=$here/../bazel
scratch=$(mktemp -d)
out=$scratch/out
failed=0

cleanup() {
    local pids
    pids=$(jobs -p)
    # shellcheck disable=SC2086 # one word a process
    [ -z "$pids" ] || kill $pids 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT

unset BAZEL_REAL ZUE_OFFLINE ZUE_BAZEL_SUITE ZUE_DEBIAN_MIRROR CC
export ZUE_BAZEL_HOME=$scratch/home

# Runs the test function $1 in a subshell, so that what it sets is its own. (Not
# as part of an if or a ||, where bash would ignore its set -e.)
run() {
    local status
    rm -rf "$ZUE_BAZEL_HOME"
    set +e
    (
        set -e
        "$1"
    ) >"$scratch/log" 2>&1
    status=$?
    set -e
    if [ $status = 0 ]; then
        echo "ok    $1"
    else
        failed=$((failed + 1))
        echo "FAIL  $1"
        sed 's/^/      /' "$scratch/log"
    fi
}

# Runs "$@", which must end with status $1 and say each line of stdin somewhere.
expect() {
    local status=0 want=$1 line
    shift
    "$@" >"$out" 2>&1 </dev/null || status=$?
    cat "$out"
    [ $status = "$want" ] || { echo "status $status, want $want" && return 1; }
    while IFS= read -r line; do
        grep -qF -- "$line" "$out" || { echo "not said: $line" && return 1; }
    done
}

usual_tools=(apt-cache apt-get awk bash cat chmod cp cut df dpkg-deb du find flock gcc go grep head id mkdir mktemp
    mv readlink rm sed sha256sum sleep sort tail wc)

# A folder for PATH with the usual tools but those named.
path_without() {
    local dir=$scratch/path tools
    mapfile -t tools < <(type -P "${usual_tools[@]}")
    rm -rf "$dir"
    mkdir "$dir"
    ln -s "${tools[@]}" "$dir"
    (cd "$dir" && rm -f "$@")
    echo "$dir"
}

# Puts a program $1 into folder $2, whose text is stdin.
fake() {
    rm -f "$2/$1"
    { echo '#!/bin/bash' && cat; } >"$2/$1"
    chmod +x "$2/$1"
}

# Waits, for at most $1 seconds, until the rest of the command line succeeds.
within() {
    local deadline=$((SECONDS + $1))
    until "${@:2}"; do
        [ $SECONDS -lt $deadline ] || { echo "not within $1 s: ${*:2}" && return 1; }
        sleep 0.05
    done
}

# shellcheck disable=SC2016 # the inner bash expands these
machine() { bash -c '. "$1/tree.sh" && find_machine "$2"' - "$here" "$1"; }

# Where the set-up for this checkout is or will be.
# shellcheck disable=SC2016
tree() { bash -c '. "$1/tree.sh" && find_tree "$1" && echo "$tree"' - "$here"; }

# The quick ones.

under_bazelisk_the_real_bazel_is_run() {
    fake real "$scratch" <<<'echo "real: $*"'
    expect 0 env BAZEL_REAL="$scratch/real" "$bazel" test //... <<<'real: test //...'
    [ ! -e "$ZUE_BAZEL_HOME" ]
}

zue_offline_overrides_bazelisk() {
    fake real "$scratch" <<<'echo "real: $*"'
    expect 36 env PATH="$(path_without apt-get)" BAZEL_REAL="$scratch/real" ZUE_OFFLINE=1 "$bazel" test //... \
        <<<'there is no apt-get here'
}

without_apt_bazelisk_is_named() {
    expect 36 env PATH="$(path_without apt-get)" "$bazel" version <<<'Use bazelisk'
    [ ! -e "$ZUE_BAZEL_HOME" ]
}

without_go_the_version_is_named() {
    expect 36 env PATH="$(path_without go)" "$bazel" version <<<'Install the Go that go.work asks for (1.'
}

without_a_compiler_gcc_is_named() {
    expect 36 env PATH="$(path_without gcc)" "$bazel" version <<<'apt-get install gcc'
    expect 36 env CC='nocc -m64' "$bazel" version <<<'there is no C compiler (nocc -m64)'
}

only_linux_on_amd64_and_arm64() {
    local machine
    for machine in aarch64-apple-darwin23 x86_64-alpine-linux-musl riscv64-unknown-linux-gnu; do
        expect 36 machine $machine <<<'Use bazelisk'
    done
    for machine in x86_64-pc-linux-gnu aarch64-unknown-linux-gnu; do
        expect 0 machine $machine </dev/null
    done
}

the_cache_is_where_the_user_wants_it() {
    expect 36 env -u ZUE_BAZEL_HOME -u HOME -u XDG_CACHE_HOME "$bazel" version <<<'Set ZUE_BAZEL_HOME'
    expect 36 env ZUE_BAZEL_HOME='/a b' "$bazel" version <<<'Set ZUE_BAZEL_HOME'
    (unset ZUE_BAZEL_HOME && HOME=/h XDG_CACHE_HOME='' tree | grep '^/h/.cache/zue-bazel/trees/')
    (unset ZUE_BAZEL_HOME && HOME=/h XDG_CACHE_HOME=/x tree | grep '^/x/zue-bazel/trees/')
    (cd / && ZUE_BAZEL_HOME=z tree | grep '^//*z/trees/')
}

a_cache_that_cannot_be_written() {
    expect 36 env ZUE_BAZEL_HOME=/proc/zue "$bazel" version <<<'cannot write in /proc/zue'
}

too_little_disk() {
    local path
    path=$(path_without)
    fake df "$path" <<<'echo; echo fs 9 9 49 1% /'
    expect 36 env PATH="$path" "$bazel" version <<<'has 49 MB free, a set-up takes'
}

no_mirror_in_the_sources() {
    local path
    path=$(path_without)
    fake apt-get "$path" <<<'exit 0'
    expect 36 env PATH="$path" "$bazel" version <<<'Set ZUE_DEBIAN_MIRROR'
}

# An apt whose suites lack what is wanted, each in its own way.
no_suite_has_it() {
    local path
    path=$(path_without)
    fake apt-get "$path" <<-'END'
	case $* in
	*update*) grep -q forky "${2%/*}/apt/sources.list" && echo 'E: no route to it' >&2 && exit 100 ;;
	esac
	exit 0
	END
	fake apt-cache "$path" <<<'echo "  Candidate: 6.0.0-1"'
    expect 36 env PATH="$path" ZUE_DEBIAN_MIRROR=file:/mirror ZUE_BAZEL_SUITE='one two' "$bazel" version <<-'END'
	no Debian suite has Bazel
	one of file:/mirror: it has bazel-bootstrap 6.0.0-1
	two of file:/mirror: it has bazel-bootstrap 6.0.0-1
	forky of file:/mirror: its package list cannot be read. E: no route to it
	sid of file:/mirror: it has bazel-bootstrap 6.0.0-1
	END
}

# An apt that has all, but cannot download it or gives it damaged.
fake_full_apt() {
    fake apt-cache "$1" <<<"echo '  Candidate: $(cat "$here/../../.bazelversion")-1'"
    fake apt-get "$1" <<-'END'
	case $* in
	*install*) echo 'Inst patchelf (1 x)' ;;
	*--print-uris*) echo "'http://m/p.deb' patchelf_1_amd64.deb 4 SHA256:$(echo abc | sha256sum | cut -c 1-64)" ;;
	*download*) sleep "${FAKE_SLEEP:-0}"; echo "${FAKE_DEB:-abc}" >patchelf_1_amd64.deb; [ -z "${FAKE_ERROR:-}" ] || { echo "E: $FAKE_ERROR" >&2; exit 100; } ;;
	esac
	END
}

a_failed_download_shows_what_apt_says() {
    local path
    path=$(path_without)
    fake_full_apt "$path"
    export ZUE_DEBIAN_MIRROR=file:/mirror
    expect 36 env PATH="$path" FAKE_ERROR='the line is cut' FAKE_DEB=x "$bazel" version <<-'END'
	step 2 of 5: downloading 1 of 1 packages (0 MB)
	1 packages could not be downloaded
	E: the line is cut
	END
    expect 36 env PATH="$path" FAKE_DEB=bad "$bazel" version <<<'1 packages could not be downloaded'
}

# dpkg-deb refuses the fake package: a failure that no message of ours foresees.
an_unforeseen_failure_names_step_and_command() {
    local path
    path=$(path_without)
    fake_full_apt "$path"
    export ZUE_DEBIAN_MIRROR=file:/mirror
    expect 2 env PATH="$path" "$bazel" version <<-'END'
	zue bazel set-up failed (step 3 of 5: unpacking the packages): dpkg-deb -x
	ended with status 2
	END
    expect 2 env PATH="$path" "$bazel" version <<<'downloading 0 of 1 packages'
}

# Killed, it says so, and nothing that it started keeps its caller waiting.
an_interruption_is_said_too() {
    local path
    path=$(path_without)
    fake_full_apt "$path"
    PATH=$path ZUE_DEBIAN_MIRROR=file:/mirror FAKE_SLEEP=2 "$here/setup.sh" > >(cat >"$scratch/killed") 2>&1 &
    within 10 grep -q 'step 2 of 5' "$scratch/killed"
    kill $!
    wait $! && exit 1
    within 10 grep -q 'interrupted in step 2 of 5: .*run it again' "$scratch/killed"
}

# A folder that stands for a complete set-up.
fake_tree() {
    mkdir -p "$1/root/usr/bin"
    touch "$1/bazelrc"
    fake bazel "$1/root/usr/bin" <<<'echo "fake: $*"'
}

when_set_up_neither_lock_nor_tools_are_needed() {
    fake_tree "$(tree)"
    flock -o "$ZUE_BAZEL_HOME/lock" sleep 30 &
    expect 0 timeout 10 env PATH="$(path_without apt-get go gcc)" "$bazel" test //... <<-END
	fake: --nosystem_rc --bazelrc=$(tree)/bazelrc
	test //...
	END
    [ "$(wc -l <"$out")" = 1 ]
    kill %%
}

one_that_waited_uses_what_the_other_made() {
    mkdir -p "$ZUE_BAZEL_HOME"
    flock -o "$ZUE_BAZEL_HOME/lock" sleep 30 &
    "$bazel" version >"$scratch/waiter" 2>&1 &
    within 10 grep -q 'another set-up is running' "$scratch/waiter"
    fake_tree "$(tree)"
    kill %1
    within 10 grep -q '^fake: .* version' "$scratch/waiter"
    wait %2
}

# The slow ones: real set-ups.

works() {
    expect 0 "$bazel" --max_idle_secs=60 info output_base <<<"$ZUE_BAZEL_HOME/out/"
    "$bazel" shutdown
    [ ! -e "$ZUE_BAZEL_HOME/work" ]
    [ "$(find "$ZUE_BAZEL_HOME/trees" -mindepth 1 -maxdepth 1 | wc -l)" = "$1" ]
}

two_at_once_from_a_wrong_suite() {
    local other=$ZUE_BAZEL_HOME/trees/other
    mkdir -p "$other"
    export ZUE_BAZEL_SUITE='no-such-suite bookworm'
    "$here/setup.sh" 2>"$scratch/one" &
    "$here/setup.sh" 2>"$scratch/two" &
    wait %1
    wait %2
    cat "$scratch/one" "$scratch/two"
    grep -q 'not from no-such-suite of .*: its package list cannot be read$' "$scratch/one" "$scratch/two"
    grep -q 'not from bookworm of .*: it has bazel-bootstrap 4' "$scratch/one" "$scratch/two"
    [ "$(cat "$scratch/one" "$scratch/two" | grep -c 'another set-up is running')" = 1 ]
    [ "$(cat "$scratch/one" "$scratch/two" | grep -c ': ready after')" = 1 ]
    works 2
}

# Only the script is killed: what it has left running must not disturb the next.
killed_at_each_step_then_resumed() {
    local step=1
    for step in 1 2 3 4 5; do
        "$here/setup.sh" 2>"$scratch/killed" &
        within 300 grep -q "step $step of 5" "$scratch/killed"
        sleep 0.3
        kill -9 $!
        wait $! || true
        cat "$scratch/killed"
        [ ! -e "$(tree)" ]
    done
    expect 0 "$here/setup.sh" <<<'downloading 0 of 1'
    works 1
}

tests=(
    under_bazelisk_the_real_bazel_is_run
    zue_offline_overrides_bazelisk
    without_apt_bazelisk_is_named
    without_go_the_version_is_named
    without_a_compiler_gcc_is_named
    only_linux_on_amd64_and_arm64
    the_cache_is_where_the_user_wants_it
    a_cache_that_cannot_be_written
    too_little_disk
    no_mirror_in_the_sources
    no_suite_has_it
    a_failed_download_shows_what_apt_says
    an_unforeseen_failure_names_step_and_command
    an_interruption_is_said_too
    when_set_up_neither_lock_nor_tools_are_needed
    one_that_waited_uses_what_the_other_made
)
case ${1:-} in
'') ;;
--slow) tests+=(two_at_once_from_a_wrong_suite killed_at_each_step_then_resumed) ;;
*) sed -n 's/^# \{0,1\}//; 2,6p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
for test in "${tests[@]}"; do run "$test"; done
[ $failed = 0 ] || { echo "$failed of ${#tests[@]} tests failed" && exit 1; }
echo "all ${#tests[@]} tests passed"
