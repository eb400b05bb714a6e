#!/bin/sh
# Write the commands of pyproject.toml's [project.scripts] into a directory: launcher.sh DIRECTORY PYTHON PATH...
# PATH... goes behind the standard library in the module search path. They start Python isolated and without site, which is half of the
# start-up time of a verb that does little.
set -eu
directory=$1 interpreter=$2
shift 2
paths=
for path in "$@"; do paths="$paths${paths:+, }'$path'"; done
write() {
    cat >"$directory/$1.new" <<EOF
#!$interpreter -IS
import sys
sys.path += [$paths]
from $2 import main
sys.exit(main())
EOF
    chmod 755 "$directory/$1.new"
    mv "$directory/$1.new" "$directory/$1"
}
write vmpod oci_runtime.cli.main
write containerd-shim-vmpod-v2 oci_runtime.shim.main
