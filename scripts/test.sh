#!/bin/sh
# Run the linters' tests and all others in one private mount namespace: test.sh [PYTEST ARGUMENT]...
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || {
    echo "vmpod tests: root is needed (namespaces, mounts, virtual machines): sudo make test" >&2
    exit 1
}
exec unshare --mount --propagation private .venv/bin/python -m pytest "$@" </dev/null
