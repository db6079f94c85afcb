#!/bin/sh
# Hold the compose files to the schema, alone and with each file that goes beside them. Part of `make lint`.
set -eu
cd "$(dirname "$0")/../deploy"

if docker compose version >/dev/null 2>&1; then
    compose="docker compose"
elif command -v docker-compose >/dev/null 2>&1; then
    compose="docker-compose"
else
    echo "Neither 'docker compose' nor docker-compose is here: the compose files are not checked."
    [ "${HIPNODE_REQUIRE_PEERS:-}" != 1 ]
    exit
fi
export HIPNODE_VERSION=0
for beside in "" "-f compose.gpu.yaml" "-f compose.try.yaml" "-f compose.gpu.yaml -f compose.try.yaml"; do
    # shellcheck disable=SC2086
    $compose -f compose.yaml $beside config --quiet
done
