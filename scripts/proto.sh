#!/bin/sh
# Regenerate the message modules from oci_runtime/ttrpc/proto/*.proto: protobuf's own (_pb2, with .pyi) for the host,
# tables for the guest's small codec (_lean); and those of containerd's messages and of the CRI.
# Needs the development dependencies (grpcio-tools, ruff).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -m grpc_tools.protoc -I . --python_out=. --pyi_out=. oci_runtime/ttrpc/proto/ttrpc.proto oci_runtime/ttrpc/proto/agent.proto \
    oci_runtime/shim/proto/*.proto conformance/cri/proto/*.proto
descriptors=$(mktemp)
trap 'rm -f "$descriptors"' EXIT
for name in ttrpc agent; do
    "$python" -m grpc_tools.protoc -I . --descriptor_set_out="$descriptors" "oci_runtime/ttrpc/proto/$name.proto"
    "$python" scripts/lean_messages.py "$descriptors" "oci_runtime/ttrpc/proto/${name}_lean"
done
lean="oci_runtime/ttrpc/proto/*_lean.py oci_runtime/ttrpc/proto/*_lean.pyi"
"$python" -m ruff format -q $lean
"$python" -m ruff check -q --fix --select I,F $lean
"$python" -m ruff format -q $lean
