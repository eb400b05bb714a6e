#!/bin/sh
# Run the demo in mount and network namespaces of its own.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || {
    echo "vmpod demo: root is needed (namespaces, mounts): sudo make demo" >&2
    exit 1
}
exec unshare --mount --net --propagation private .venv/bin/python scripts/demo.py --vmpod "$(pwd)/.venv/bin/vmpod" "$@"
