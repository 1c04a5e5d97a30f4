# Sourced by tests/run and examples/run: sets up what is missing, and is quick when nothing is.

# find_python: an interpreter of at least 3.11.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer is needed; name one with PYTHON=…" >&2
  return 1
}

# debian_packages NAME…: installs those that are missing.
debian_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  echo "Installing Debian packages: ${missing[*]}"
  # Without a policy, installing a server would start it.
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# node_or_install: Node 18 or newer.
node_or_install() {
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    debian_packages nodejs npm
  fi
}

# npm_packages FOLDER: what its lock file names.
npm_packages() {
  local mark="$1/node_modules/.installed"
  if [ ! -e "$mark" ] || [ "$1/package-lock.json" -nt "$mark" ]; then
    (cd "$1" && npm ci --no-fund --no-audit --loglevel=error)
    touch "$mark"
  fi
}

# virtual_environment FOLDER PYTHON ARGUMENTS…: makes it and installs into it, once for the same arguments.
virtual_environment() {
  local folder="$1" python="$2"
  shift 2
  local wanted
  wanted="$("$python" --version) $* $(cat pyproject.toml)"
  if [ "$(cat "$folder/.installed" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$folder"
    # Debian's Python comes without what venv needs.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || debian_packages python3-venv
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
    "$folder/bin/python" -m pip install -q --disable-pip-version-check "$@"
    echo "$wanted" > "$folder/.installed"
  fi
}
