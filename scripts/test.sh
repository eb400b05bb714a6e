#!/bin/sh
# Run the linters' tests and all others in private mount namespaces: test.sh [PYTEST ARGUMENT]...
# Without a selection three processes share the files of tests: two keep two cores busy while one waits for something.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || {
    echo "vmpod tests: root is needed (namespaces, mounts, virtual machines): sudo make test" >&2
    exit 1
}
python="unshare --mount --propagation private $(pwd)/.venv/bin/python"
case "${1-}" in
'' | --last-failed*) set -- --dist loadfile --no-loadscope-reorder --tx "3*popen//python=$python" "$@" ;;
esac
# shellcheck disable=SC2086
exec $python -m pytest "$@" </dev/null
