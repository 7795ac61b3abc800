#!/bin/sh
# Bring what deploy/ is checked with into .cache/deploy: an environment of its own, for it is heavy. A second run does nothing.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
NOW=$(cksum <deploy/requirements.lock)
if [ "$(cat .cache/deploy/lock 2>/dev/null)" = "$NOW" ]; then exit 0; fi
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 UV_NO_PROGRESS=1
UV_CACHE_DIR="$(PYTHONPATH=libs/stack .venv/bin/python -m pixorly_stack.cache)/uv"
export UV_CACHE_DIR
echo "Bringing what deploy/ is checked with, this once (450 MB in .cache/deploy):"
.venv/bin/uv venv --quiet --clear --python .venv/bin/python .cache/deploy
.venv/bin/uv pip sync --quiet --python .cache/deploy/bin/python --require-hashes deploy/requirements.lock
printf '%s\n' "$NOW" >.cache/deploy/lock
