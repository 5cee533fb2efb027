# Sourced by tools/bazel and setup.sh: says where the set-up for this checkout
# is or will be, in a few milliseconds. Sets home (the cache), tree (in it), the
# wanted versions bazel, rules_go and gazelle, and what the machine is: triplet
# and loader.
#
# A tree is named by a hash of all that goes into it, and is only ever seen
# complete. Its own place is part of that, for it holds absolute paths.
#
# shellcheck shell=bash
# shellcheck disable=SC2034 # the sourcing script uses what is set here

said_why=36 # Bazel's own exit status for a fault of the machine it is on

# The first argument says what is wrong, the others what to do.
die() {
    printf 'zue bazel set-up failed (%s): %s\n' "${now:=looking for it}" "$1" >&2
    shift
    [ $# = 0 ] || printf '%s\n' "$@" | sed 's/^/    /' >&2
    exit $said_why
}

find_home() {
    local cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
    home=${ZUE_BAZEL_HOME:-${cache:+$cache/zue-bazel}}
    [ -n "$home" ] || die 'neither HOME, XDG_CACHE_HOME nor ZUE_BAZEL_HOME is set' \
        'Set ZUE_BAZEL_HOME to a folder with 2 GB to spare.'
    case $home in /*) ;; *) home=$PWD/$home ;; esac
    case $home in *[[:space:]\"\'\\]*) die "the cache would be in '$home', and below a path with a space or a quote" \
        'neither Bazel nor gazelle builds. Set ZUE_BAZEL_HOME to another.' ;; esac
    export HOME=${HOME:-$home} # Go cannot do without
}

# $1 is a machine in the manner of config.guess, as bash has it built in.
find_machine() {
    case $1 in
    x86_64-*-linux-gnu*) triplet=x86_64-linux-gnu loader=ld-linux-x86-64.so.2 ;;
    aarch64-*-linux-gnu*) triplet=aarch64-linux-gnu loader=ld-linux-aarch64.so.1 ;;
    *) die "Bazel can be set up from Debian's packages on Linux on amd64 and arm64 only; this is $1" \
        'Use bazelisk: it reads .bazelversion and MODULE.bazel as they stand.' ;;
    esac
}

# $1 is the top of the checkout.
find_versions() {
    local line
    read -r bazel <"$1/.bazelversion" || true
    rules_go='' gazelle=''
    while IFS= read -r line; do
        if [[ $line =~ ^bazel_dep\(name\ =\ \"(rules_go|gazelle)\",\ version\ =\ \"([^\"]+)\" ]]; then
            printf -v "${BASH_REMATCH[1]}" %s "${BASH_REMATCH[2]}"
        fi
    done <"$1/MODULE.bazel"
    if [ -z "$bazel" ] || [ -z "$rules_go" ] || [ -z "$gazelle" ]; then
        die "$1/.bazelversion, or the lines of rules_go and gazelle in MODULE.bazel, are not as expected"
    fi
}

# $1 is the folder of setup.sh.
find_tree() {
    local script stamp
    find_home
    find_machine "${BASH_VERSINFO[5]}"
    find_versions "$1/../.."
    IFS= read -r -d '' script <"$1/setup.sh" || true
    stamp=$(sha256sum <<<"$bazel $rules_go $gazelle $triplet ${ZUE_BAZEL_SUITE:-} $home $script")
    tree=$home/trees/${stamp:0:16}
}
