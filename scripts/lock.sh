#!/bin/sh
# Write requirements.lock for the whole workspace, and one for each service with the same versions, so that a service can
# be installed alone. They hold hashes and no addresses. Versions stay what they are; UPGRADE=1 takes the newest.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 UV_NO_PROGRESS=1 UV_CUSTOM_COMPILE_COMMAND="make lock"

# Our own projects are installed from here and stand in no lock.
OURS=$(sed -n 's/^name = "\(.*\)"$/--no-emit-package \1/p' libs/*/pyproject.toml services/*/pyproject.toml)

compile() {
    # shellcheck disable=SC2086 # the words of OURS are options
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url $OURS "$@"
}

# The local stack needs all the others, and so its lock is that of all. The command alone, as in its image, needs less.
compile ${UPGRADE:+--upgrade} libs/stack/pyproject.toml --extra local pyproject.toml --group dev -o requirements.lock
for project in services/*/pyproject.toml libs/stack/pyproject.toml; do
    compile -c requirements.lock "$project" -o "${project%/pyproject.toml}/requirements.lock"
done
# What `make bench` compares with runs in the same environment as the system.
compile -c requirements.lock pyproject.toml --group bench -o bench/requirements.lock
# What `make check-deploy` checks with is heavy, and needed by nothing else.
compile ${UPGRADE:+--upgrade} --group pyproject.toml:deploy -o deploy/requirements.lock
