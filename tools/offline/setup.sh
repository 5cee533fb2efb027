#!/bin/bash
# Puts Bazel, and the rule sets that MODULE.bazel names, into a cache of the
# user's, for a machine that reaches only Debian's packages and the Go module
# proxy. Run by tools/bazel when it is not there yet (tree.sh says where); safe
# to run again after any interruption, and at the same time as another run.
# Writes nothing outside the cache and Go's own module cache, installs nothing,
# and says what it does on stderr.
#
# ZUE_BAZEL_HOME     the cache      (default $XDG_CACHE_HOME or ~/.cache, /zue-bazel)
# ZUE_BAZEL_SUITE    Debian suites to try before the usual ones
# ZUE_DEBIAN_MIRROR  Debian mirror  (default those in apt's own sources)
#
# In the cache:
#   trees/<stamp>    a complete set-up; never changed, never removed by this script
#   work             downloads and a half-made tree, while a set-up runs
#   out, disk        Bazel's outputs and its cache of actions, for all set-ups
#   lock             held by the one set-up that runs
set -Eeuo pipefail
umask 022

usual_suites='forky sid trixie-backports'
mb_needed=1000
now='starting'
failed_command=
watcher=
finished=

say() { printf 'zue bazel set-up: %s\n' "$*" >&2; }

step() {
    now="step $1 of 5: $2"
    say "$now"
}

# No failure is silent: one that no die() foresaw ends here. After a signal,
# status may be that of any command.
on_exit() {
    local status=$?
    trap - EXIT ERR
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
    if [ -n "$finished" ] || [ "$status" = "$said_why" ]; then
        exit "$status"
    elif [ "$status" = 0 ] || [ "$status" -gt 128 ]; then
        say "interrupted in $now; run it again, and it goes on from there"
        exit 130
    fi
    printf 'zue bazel set-up failed (%s): %s ended with status %s\n' \
        "$now" "${failed_command:-a command}" "$status" >&2
    printf '    %s\n' 'The lines above may say why. Run it again: what is downloaded is kept.' \
        "To start afresh: rm -rf '$work'" >&2
    disk_hint
    exit "$status"
}

disk_hint() {
    local free
    free=$(mb_free) || return 0
    [ "$free" -ge 50 ] || printf '    The disk of %s is full (%s MB free).\n' "$home" "$free" >&2
}

mb_free() { df -Pm "$home" | awk 'NR == 2 { print $4 }'; }

check_tools() {
    local tool compiler
    for tool in apt-get apt-cache dpkg-deb; do
        command -v $tool >/dev/null || die "there is no $tool here, and this way needs Debian's packages" \
            'Use bazelisk: it reads .bazelversion and MODULE.bazel as they stand.'
    done
    for tool in flock awk find df du; do
        command -v $tool >/dev/null || die "there is no $tool here" \
            'It is in one of: util-linux, mawk or gawk, findutils, coreutils.'
    done
    command -v go >/dev/null || die 'there is no go on PATH' \
        "Install the Go that go.work asks for ($(sed -n 's/^go //p' "$here/../../go.work")), or put it on PATH."
    compiler=${CC:-gcc}
    command -v "${compiler%% *}" >/dev/null || die "there is no C compiler ($compiler), which Bazel, cgo and the race detector need" \
        'apt-get install gcc, or set CC.'
}

# One set-up at a time. The children inherit the lock, so that what a killed
# set-up left running cannot write beside the next one.
take_lock() {
    { mkdir -p "$home/trees" && exec 9>"$home/lock"; } ||
        die "cannot write in $home" 'Set ZUE_BAZEL_HOME to a folder of yours with 2 GB to spare.'
    flock -n 9 && return
    now='waiting for another set-up'
    say "another set-up is running in $home (or its last download is ending); waiting for it"
    flock 9 || die "cannot lock $home/lock" 'Set ZUE_BAZEL_HOME to a folder on a local disk.'
}

check_disk() {
    local free
    free=$(mb_free)
    [ "$free" -ge $mb_needed ] || die "$home has $free MB free, a set-up takes $mb_needed MB" \
        "Make room, or set ZUE_BAZEL_HOME to a folder on another disk." \
        "Set-ups of old versions are in $home/trees; remove any that no running Bazel uses."
}

# A private apt, so that the machine's own never hears of another suite. Hooks
# of the machine's apt are dropped: they would work on the machine.
write_apt_conf() {
    mkdir -p "$work"/{empty,debs,apt/lists/partial,apt/archives/partial}
    : >"$work/apt/status"
    cat >"$work/apt.conf" <<-CONF
	#clear APT::Update::Pre-Invoke;
	#clear APT::Update::Post-Invoke;
	#clear APT::Update::Post-Invoke-Success;
	#clear AptCli::Hooks;
	Dir::Etc::sourcelist "$work/apt/sources.list";
	Dir::Etc::sourceparts "$work/empty";
	Dir::Etc::preferences "/dev/null";
	Dir::Etc::preferencesparts "$work/empty";
	Dir::State "$work/apt";
	Dir::State::lists "$work/apt/lists";
	Dir::State::status "$work/apt/status";
	Dir::Cache "$work/apt";
	Dir::Cache::pkgcache "pkgcache.bin";
	Acquire::Check-Valid-Until "false";
	Acquire::Languages "none";
	Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
	Acquire::Retries "3";
	APT::Install-Recommends "false";
	APT::Sandbox::User "$(id -un)";
	APT::Update::Error-Mode "any";
	Debug::NoLocking "true";
	CONF
}

# apt with its output in $work/apt.out and its complaints in $work/apt.err.
apt() { "$1" -c "$work/apt.conf" -q "${@:2}" >"$work/apt.out" 2>"$work/apt.err"; }

apt_says() {
    grep -hE '^[EW]:' "$work/apt.err" "$work/apt.out" | grep -v 'Some index files failed' | head -5 || true
}

# Debian mirrors that the machine's apt knows, likeliest first.
mirrors() {
    if [ -n "${ZUE_DEBIAN_MIRROR:-}" ]; then
        echo "$ZUE_DEBIAN_MIRROR"
        return
    fi
    # shellcheck disable=SC2016 # apt fills these in
    apt-get indextargets --no-release-info --format '$(COMPONENT) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 == "main" && $2 !~ /[-\/]/ && !seen[$3]++ { print ($3 ~ /debian\/?$/ ? 0 : 1), $3 }' |
        sort -s -n -k 1,1 | cut -d ' ' -f 2- | head -3
}

# Makes apt read suite $2 of mirror $1, and sets wanted to the packages to take
# from it. Fails, with the reason in why, when it does not have what we want.
try_suite() {
    local keyring signed_by='' version
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [ -e "$keyring" ] && signed_by="[signed-by=$keyring] "
    done
    echo "deb $signed_by$1 $2 main" >"$work/apt/sources.list"
    if ! apt apt-get update; then
        why="its package list cannot be read. $(apt_says)"
        return 1
    fi
    apt apt-cache policy bazel-bootstrap || true
    version=$(sed -n 's/^ *Candidate: //p' "$work/apt.out")
    case $version in
    "$bazel" | "$bazel"[+~-]*) ;;
    '' | '(none)') why='it has no bazel-bootstrap' && return 1 ;;
    *) why="it has bazel-bootstrap $version" && return 1 ;;
    esac
    # libblake3-0: libunix_jni.so needs it, and nothing depends on it.
    if ! apt apt-get -s install bazel-bootstrap bazel-rules-shell libblake3-0 patchelf; then
        why="bazel-bootstrap $version cannot be installed. $(apt_says)"
        return 1
    fi
    wanted=$(awk '/^Inst/ { print $2 }' "$work/apt.out" | grep -E -- "$take")
}

# Of all that bazel-bootstrap depends on: the jars, the rule sets, a JRE, and the
# libraries that the programs among them load.
take='-java$|^bazel-|^(velocity|junit4|libc6|libgcc-s1|libstdc\+\+6|zlib1g|libprotobuf[0-9]+(t64)?|libabsl[0-9]+'
take+='|libcares2|libre2-[0-9]+|libssl3(t64)?|libgrpc.*|openjdk-[0-9]+-jre-headless|libzstd1|libzstd-jni1'
take+='|libasync-profiler-jni|libblake3-0|patchelf)$'

read_package_list() {
    local mirror suite tried=()
    step 1 "looking for Bazel $bazel in Debian's package lists (10 MB each)"
    write_apt_conf
    for mirror in $(mirrors); do
        for suite in ${ZUE_BAZEL_SUITE:-} $usual_suites; do
            if try_suite "$mirror" "$suite"; then
                say "  it is in $suite of $mirror"
                return
            fi
            say "  not from $suite of $mirror: ${why%%. *}"
            tried+=("$suite of $mirror: $why")
        done
    done
    [ ${#tried[@]} != 0 ] || die "apt's sources name no Debian mirror" \
        'Set ZUE_DEBIAN_MIRROR to the address of one.'
    die "no Debian suite has Bazel $bazel" "${tried[@]}" \
        'If the network was at fault, run it again. If not, name other suites in ZUE_BAZEL_SUITE, put a' \
        'version that one has into .bazelversion, set ZUE_DEBIAN_MIRROR, or use bazelisk.'
}

# Says every few seconds how much of $2 MB is in folder $1, for a slow line.
# Run in the background, it must not outlive the set-up, even one killed by
# kill -9, and meanwhile hold neither the lock nor the caller's output.
watch_folder() {
    local parent
    exec 9>&-
    while sleep 5 >/dev/null 2>&1; do
        read -r _ _ _ parent _ <"/proc/$BASHPID/stat"
        [ "$parent" = $$ ] || return 0
        say "  $(du -sm "$1" | cut -f 1) of $2 MB"
    done
}

# Sets missing to those of the wanted packages that are not there whole, by the
# size and hash that Debian's signed list gives.
find_missing() {
    local file size hash
    missing=()
    bytes=0
    while read -r _ file size hash; do
        if [ -f "$file" ] && echo "${hash#*:}  $file" | sha256sum --check --status; then continue; fi
        rm -f -- "$file"
        missing+=("${file%%_*}")
        bytes=$((bytes + size))
    done <"$work/packages"
}

download_packages() {
    local ok=1 missing bytes
    cd "$work/empty" # in debs, apt would leave out what is there already
    # shellcheck disable=SC2086 # one word a package
    apt apt-get download --print-uris $wanted || die 'apt cannot say where the packages are' "$(apt_says)"
    sed -n "/ SHA256:/p" "$work/apt.out" >"$work/packages"
    [ "$(wc -l <"$work/packages")" = "$(wc -w <<<"$wanted")" ] ||
        die "the package list lacks some packages' SHA256" "$(apt_says)"
    cd "$work/debs"
    find_missing
    step 2 "downloading ${#missing[@]} of $(wc -w <<<"$wanted") packages ($((bytes / 1000000)) MB)"
    if [ ${#missing[@]} != 0 ]; then
        watch_folder "$work/debs" $(($(awk '{ n += $3 } END { print n }' "$work/packages") / 1000000)) &
        watcher=$!
        apt apt-get download "${missing[@]}" || ok=
        kill "$watcher" 2>/dev/null || true
        wait "$watcher" 2>/dev/null || true
        watcher=
        find_missing
        if [ -z "$ok" ] || [ ${#missing[@]} != 0 ]; then
            die "${#missing[@]} packages could not be downloaded" \
                "$(apt_says)" 'Run it again: what has been downloaded is kept.'
        fi
    fi
    cd "$home"
}

unpack_packages() {
    local file
    step 3 'unpacking the packages'
    mkdir -p "$new/root"
    while read -r _ file _; do
        dpkg-deb -x "$work/debs/$file" "$new/root"
    done <"$work/packages"
}

# Makes the tree work where it will stand ($tree; as yet it is in $new): absolute
# links, the ELF interpreter and library path of its programs, Bazel's class path.
fit_tree() {
    local link target lib=usr/lib/$triplet java program jar classpath
    step 4 'fitting the programs to their place'
    while IFS= read -r -d '' link; do
        target=$(readlink "$link")
        if [ -e "$new/root$target" ] || [ -L "$new/root$target" ]; then
            ln -sfn "$tree/root$target" "$link"
        fi
    done < <(find "$new/root" -type l -lname '/*' -print0)

    java=$(cd "$new/root" && find usr/lib/jvm -path '*/bin/java' -type f | head -1)
    java=${java%/bin/java}
    [ -n "$java" ] || die 'the packages hold no java'
    for program in "$new/root"/{"$java/bin/java","$java/lib/jspawnhelper",usr/bin/bazel,"usr/libexec/$triplet/bazel"/*}; do
        [ -f "$program" ] || die "the packages hold no ${program#"$new/root/"}"
        "$new/root/$lib/$loader" --library-path "$new/root/$lib" "$new/root/usr/bin/patchelf" \
            --set-interpreter "$tree/root/$lib/$loader" --force-rpath \
            --set-rpath "$tree/root/$lib:$tree/root/$java/lib:$tree/root/$java/lib/server" "$program"
    done

    classpath=$new/root/usr/share/bazel/bazel_classpath_debian_depends.txt
    TREE=$tree awk '/^\/usr\/share\/java\// { $0 = ENVIRON["TREE"] "/root" $0 } 1' "$classpath" >"$work/classpath"
    cp "$work/classpath" "$classpath"
    # Debian's jars name each other by absolute path in their manifests, where
    # they are not; name those here instead. (Without io.perfmark the client
    # waits two minutes for a server that cannot speak gRPC.)
    for jar in perfmark-api protobuf commons-collections3 netty-{buffer,common,handler,handler-proxy,transport}; do
        if [ -e "$new/root/usr/share/java/$jar.jar" ]; then
            echo "$tree/root/usr/share/java/$jar.jar" >>"$classpath"
        fi
    done
    java_home=$tree/root/$java
}

# Copies module $1 at version $2 from the Go module proxy to rules/$3. A module
# zip drops the executable bit.
fetch_rules() {
    local from to=$new/rules/$3
    (
        cd "$work/go"
        export GOWORK=off GOFLAGS=-mod=mod
        go mod download "$1@$2" && go list -m -f '{{.Dir}}' "$1@$2"
    ) >"$work/go.out" 2>"$work/go.err" ||
        die "go cannot download $1 $2" "$(tail -5 "$work/go.err")" 'Run it again if the network was at fault; see go env GOPROXY.'
    from=$(<"$work/go.out")
    cp -r "$from" "$to"
    chmod -R u+w "$to"
    find "$to" \( -name '*.sh' -o -name '*.bash' \) -exec chmod +x {} +
}

fetch_all_rules() {
    step 5 "fetching rules_go $rules_go and gazelle $gazelle"
    mkdir -p "$new/rules" "$work/go"
    echo 'module scratch' >"$work/go/go.mod"
    fetch_rules github.com/bazelbuild/rules_go "v$rules_go" rules_go
    fetch_rules github.com/bazelbuild/bazel-gazelle "v$gazelle" gazelle
    # rules_go has a Go SDK of its own to fall back on; its list of downloads is
    # out of reach, and MODULE.bazel names the SDK that we use.
    sed -i '/^go_sdk\.from_file(/,/^)/d' "$new/rules/rules_go/MODULE.bazel"
    # gazelle's zip has no vendor folder, and its test data is full of modules
    # that do not exist.
    rm -rf "$new/rules/gazelle/tests"
    (cd "$new/rules/gazelle" && GOWORK=off GOFLAGS='' go mod vendor -e) >"$work/go.out" 2>&1 ||
        die "go cannot download what gazelle needs" "$(tail -5 "$work/go.out")" 'Run it again if the network was at fault.'
}

write_bazelrc() {
    local base=$tree/root/usr/share/bazel module
    mkdir -p "$new/registry"
    {
        echo "startup --install_base=$base --trust_install_base"
        echo "startup --server_javabase=$java_home"
        echo "startup --output_user_root=$home/out"
        echo "common --disk_cache=$home/disk"
        echo "common --registry=file://$tree/registry"
        for module in platforms:tools/platforms bazel_skylib:tools/skylib rules_cc:rules/cc rules_java:rules/java \
            rules_license:rules/license rules_proto:rules/proto rules_python:rules/python rules_shell:rules/shell; do
            echo "common --override_module=${module%%:*}=$base/${module#*:}"
        done
        for module in rules_go gazelle; do
            echo "common --override_module=$module=$tree/rules/$module"
        done
    } >"$new/bazelrc"
}

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=tools/offline/tree.sh
. "$here/tree.sh"
trap on_exit EXIT
trap 'failed_command=$BASH_COMMAND' ERR
find_tree "$here"
work=$home/work
new=$work/tree
check_tools
take_lock
if [ ! -e "$tree/bazelrc" ]; then # or the set-up that we waited for has made it
    check_disk
    rm -rf "$new"
    read_package_list
    download_packages
    unpack_packages
    fit_tree
    fetch_all_rules
    write_bazelrc
    mv -T "$new" "$tree"
    rm -rf "$work"
    say "ready after $SECONDS s, in $tree"
fi
finished=1
