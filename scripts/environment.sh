# A virtual environment with this project in it. Sourced by the other scripts; sets $python.
#
#   make_environment FOLDER EXTRAS
#
# Needs Debian's python3 and its venv module, which is a package of its own there.

make_environment() {
    need_venv
    if [ ! -x "$1/bin/python" ]; then
        echo "Making a virtual environment in $1 ..."
        python3 -m venv "$1"
    fi
    python=$1/bin/python
    # a quiet, repeatable installation: nothing is done where the same requirements are met already
    "$python" -m pip install --quiet --disable-pip-version-check -e ".$2"
}

# Install packages of Debian if this is Debian and we may; false if not.
install_debian_packages() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Debian has Python's venv module in a package of its own.
need_venv() {
    python3 -c 'import ensurepip, venv' 2>/dev/null && return
    install_debian_packages python3-venv || {
        echo "Python's venv module is missing. On Debian: apt-get install python3-venv" >&2
        exit 1
    }
}
