#!/usr/bin/env bash
# Writes the Python stubs of every .proto file to the folder given (default: gen/).
# Usage: proto/generate.sh [OUT]; PYTHON names the interpreter that has grpcio-tools.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-gen}
mkdir -p "$out"
protoc() { "${PYTHON:-python}" -m grpc_tools.protoc -I . "$@"; }
protoc --python_out="$out" --pyi_out="$out" phoenix_retrieval/v1/*.proto
protoc --grpc_python_out="$out" --mypy_grpc_out="quiet:$out" phoenix_retrieval/v1/*_service.proto
touch "$out/phoenix_retrieval/__init__.py" "$out/phoenix_retrieval/v1/__init__.py" \
  "$out/phoenix_retrieval/py.typed"
