#!/bin/sh
# Install vmpod below $PREFIX, or remove it: install.sh [--remove]
#   $PREFIX/lib/vmpod    a virtual environment with the package and what it imports
#   $PREFIX/bin          vmpod, containerd-shim-vmpod-v2
#   $PREFIX/share/vmpod  drop-ins for CRI-O and containerd, hooks, documentation: copy what you need
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
home=$prefix/lib/vmpod
say() { echo "==> $*" >&2; }
fail() {
    echo "vmpod install: $*" >&2
    exit 1
}
case $prefix in /*) ;; *) fail "PREFIX=$prefix is not an absolute path" ;; esac

remove() {
    rm -f "$prefix/bin/vmpod" "$prefix/bin/containerd-shim-vmpod-v2"
    rm -rf "$home" "$prefix/share/vmpod"
}
if [ "${1:-}" = --remove ]; then
    remove
    say "removed vmpod from $prefix; images stay in /var/cache/vmpod/images"
    exit 0
fi

mkdir -p "$prefix/lib" "$prefix/bin" "$prefix/share/vmpod" 2>/dev/null && [ -w "$prefix/lib" ] ||
    fail "$prefix cannot be written to: become root (sudo make install), or choose another PREFIX"
say "installing into $prefix"
rm -rf "$home.old"
log=$(mktemp)
trap 'rm -rf "$home.old" "$log"' EXIT
# Made under its final name: a virtual environment cannot be moved. A running vmpod keeps the files that it has open.
[ ! -e "$home" ] || mv "$home" "$home.old"
if ! {
    /usr/bin/python3 -m venv "$home" &&
        "$home/bin/python" scripts/dependencies.py pyproject.toml |
        xargs "$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-input &&
        packages=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') &&
        cp -R oci_runtime "$packages/" &&
        find "$packages/oci_runtime" -name __pycache__ -prune -exec rm -rf {} + &&
        "$home/bin/python" -m compileall -q "$packages/oci_runtime" &&
        sh scripts/launcher.sh "$prefix/bin" "$home/bin/python" "$packages"
} >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -rf "$home"
    [ ! -e "$home.old" ] || mv "$home.old" "$home"
    fail "installation failed; what was there before is unchanged"
fi
for part in crio.conf.d containerd hooks docs; do
    rm -rf "$prefix/share/vmpod/$part"
    [ ! -d "$part" ] || cp -R "$part" "$prefix/share/vmpod/"
done
# The definitions say where they were installed.
[ "$prefix" = /usr/local ] || sed -i "s#\"/usr/local/#\"$prefix/#" "$prefix"/share/vmpod/hooks/*.json
say "installed: $prefix/bin/vmpod"
