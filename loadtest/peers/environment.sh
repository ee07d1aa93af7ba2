# Sourced by each peer's `run.sh`: a Python with the packages of its requirements.
#
#   environment FOLDER MODULES
#
# Sets `python` to that of the virtual environment named by VENV, or of .venv in FOLDER, which it makes. It installs
# FOLDER/requirements.txt, unless MODULES, such as `torch, numpy`, can be imported already.
environment() {
  local venv="${VENV:-$1/.venv}"
  python="$venv/bin/python"
  if [ ! -x "$python" ]; then
    python3 -m venv "$venv"
  fi
  "$python" -c "import $2" 2>/dev/null || "$venv/bin/pip" install --quiet -r "$1/requirements.txt"
}
