# A virtual environment with this project in it. Sourced by the other scripts; sets $python.
#
#   make_environment FOLDER EXTRAS
#
# Needs Python's venv module, which is a separate package on Debian.

# Tests start thousands of processes, each of which would compile the package afresh.
unset PYTHONDONTWRITEBYTECODE

#: All extras; tests and documentation use them.
all_extras='[clone,cloud,docs,intake,previews,test,xnat]'

make_environment() {
    python=$1/bin/python
    # nothing to do if the same project file and extras are installed
    installed=$1/installed-from
    wanted=$(printf '%s %s\n' "$2" "$(cksum pyproject.toml icf_utils/__init__.py)")
    if [ -x "$python" ] && [ "$(cat "$installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    need_venv
    if [ ! -x "$python" ]; then
        echo "Making a virtual environment in $1 ..."
        python3 -m venv "$1"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check -e ".$2"
    echo "$wanted" > "$installed"
}

# Install packages of Debian. False if this is not Debian, or not root.
install_debian_packages() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Python's venv module is a separate package on Debian.
need_venv() {
    python3 -c 'import ensurepip, venv' 2>/dev/null && return
    install_debian_packages python3-venv || {
        echo "Python's venv module is missing. On Debian: apt-get install python3-venv" >&2
        exit 1
    }
}
