#!/bin/sh
# Install what a make target needs and is not there yet: setup.sh run|test|lint [image]
#   run    Debian packages, and the libraries that vmpod imports in .venv
#   test   the same, and what tests, linters and benchmarks need
#   lint   only what the linters need: no packages but Python's
#   image  also the guest image of this checkout
# When nothing is missing it takes a tenth of a second and prints nothing.
set -eu
cd "$(dirname "$0")/.."
profile=$1
python=/usr/bin/python3

say() { echo "==> $*" >&2; }
fail() {
    echo "vmpod set-up: $*" >&2
    exit 1
}

wanted_packages() {
    case $profile in
    run) cat scripts/packages-run.txt ;;
    test) cat scripts/packages-run.txt scripts/packages-test.txt ;;
    lint) printf 'python3\npython3-venv\n' ;;
    *) fail "unknown profile $profile" ;;
    esac | grep -v '^#'
}

# The packages of the list that are not installed.
missing_packages() {
    command -v dpkg-query >/dev/null || fail "this system has no apt; install the equivalents of: $(wanted_packages | tr '\n' ' ')"
    # Since Debian 13 two programs have packages of their own; where these exist they are wanted too.
    wanted=$(wanted_packages)
    [ "$profile" = lint ] || [ -x /usr/lib/qemu/virtiofsd ] || wanted="$wanted virtiofsd"
    case $profile in test) command -v docker >/dev/null || wanted="$wanted docker-cli" ;; esac
    # shellcheck disable=SC2086
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $wanted 2>/dev/null | sed -n 's/^installed //p')
    for package in $wanted; do
        case "
$installed
" in *"
$package
"*) ;; *) echo "$package" ;; esac
    done
}

install_packages() {
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || fail "this system has no apt; install the equivalents of: $missing"
    [ "$(id -u)" = 0 ] || fail "missing packages: $missing: become root to install them: sudo make ..."
    export DEBIAN_FRONTEND=noninteractive
    say "updating apt's package lists"
    apt-get update -qq </dev/null >/dev/null || say "apt-get update reported errors; going on with what it has"
    available=
    for package in $missing; do
        case $package in
        virtiofsd | docker-cli) apt-cache show "$package" >/dev/null 2>&1 || continue ;;
        esac
        available="$available $package"
    done
    [ -n "$available" ] || return 0
    say "installing packages:$available"
    no_services
    # shellcheck disable=SC2086
    if ! apt-get install -y -qq --no-install-recommends $available </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install:$available"
    fi
    services_again
}

# containerd and docker would start daemons, and dockerd change the firewall: the tests start private ones instead.
policy=/usr/sbin/policy-rc.d
made_policy=
no_services() {
    [ -e "$policy" ] && return
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}
services_again() {
    [ -z "$made_policy" ] || rm -f "$policy"
    made_policy=
}

# Dependencies go into .venv; the package itself is found through a path file, its commands are small files of our own
# (`vmpod` starts in 8 ms instead of 15: no site, no `import re`). The stamp says what was installed.
install_python() {
    [ -x "$python" ] || fail "$python is missing: apt-get install python3 python3-venv"
    case $profile in run) extra= ;; *) extra=dev ;; esac
    checkout=$(pwd)
    stamp=$({ cat pyproject.toml scripts/setup.sh scripts/launcher.sh; "$python" -V; echo "$checkout"; } | sha256sum | cut -c 1-32)
    have=$(cat .venv/vmpod-stamp 2>/dev/null || true)
    [ "$have" = "$stamp dev" ] && return
    [ -z "$extra" ] && [ "$have" = "$stamp run" ] && return
    [ ! -e .venv ] || [ -w .venv ] || fail ".venv belongs to somebody else: run this as its owner (sudo make ...)"
    # What is there and works is kept: someone may be using it.
    if ! .venv/bin/python -c 'import pip, sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null; then
        say "making the virtual environment .venv"
        "$python" -m venv --clear .venv || fail "python3 -m venv failed: apt-get install python3-venv"
    fi
    # shellcheck disable=SC2046
    set -- $(.venv/bin/python scripts/dependencies.py pyproject.toml $extra)
    say "installing $# Python packages into .venv"
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input "$@" </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "pip could not install the Python packages; is the package index reachable (pip config list)?"
    fi
    packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$checkout" >"$packages/vmpod.pth"
    sh scripts/launcher.sh .venv/bin "$checkout/.venv/bin/python" "$checkout" "$packages"
    echo "$stamp ${extra:-run}" >.venv/vmpod-stamp
}

build_image() {
    .venv/bin/python -m oci_runtime.image build --check && return
    [ "$(id -u)" = 0 ] || fail "the guest image is not built yet: become root to build it: sudo make image"
    say "building the guest image"
    .venv/bin/python -m oci_runtime.image build
}

case $profile in
lint) ;;
*) [ "$(uname -m)" = x86_64 ] || say "only x86-64 is tested; this is $(uname -m)" ;;
esac
log=$(mktemp)
trap 'services_again; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
# One set-up at a time on a machine: apt and the environment are shared.
if [ "$(id -u)" = 0 ] && [ -w /run ] && command -v flock >/dev/null; then
    exec 9>/run/vmpod-setup.lock # not in /run/lock, where everybody may write
    flock 9
fi
install_packages
install_python
shift
for part in "$@"; do
    case $part in
    image) build_image ;;
    *) fail "unknown part $part" ;;
    esac
done
