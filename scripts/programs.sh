# Real programs for the tests. Sourced by the other scripts, after environment.sh.
#
#   install_programs       installs missing packages of Debian if run as root; else the tests that need them are skipped
#   begin_installations    starts to install two Python programs into environments of their own, in the background
#   end_installations      waits for that, and exports the paths of the programs for the tests

install_programs() {
    missing=
    for pair in nginx:nginx-light htpasswd:apache2-utils chromium:chromium chromedriver:chromium-driver \
        localedef:locales zip:zip unzip:unzip strace:strace sbatch:slurm-wlm munged:munge debootstrap:debootstrap \
        bwrap:bubblewrap dcm2niix:dcm2niix storescu:dcmtk Orthanc:orthanc psql:postgresql apache2:apache2 jq:jq \
        logrotate:logrotate zsh:zsh fish:fish groff:groff man:man-db; do
        command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
    done
    if [ -n "$missing" ]; then
        echo "Installing Debian packages for the tests:$missing"
        # shellcheck disable=SC2086 - one word a package
        install_debian_packages $missing || echo "not possible here: the tests that need them are skipped"
    fi
}

# Snakemake runs an example, cloud-optimized-dicom writes buckets for tests. Their many dependencies must not get into the
# environment that is tested.
install_apart() {
    [ -x "$1/bin/python" ] && "$1/bin/python" -c "import $2" 2>/dev/null && return
    python3 -m venv "$1" && "$1/bin/python" -m pip install --quiet "$3" || echo "$3 cannot be installed; its tests are skipped"
}

begin_installations() {
    need_venv
    {
        install_apart .venv-snakemake snakemake 'snakemake>=9'
        install_apart .venv-cod cloud_optimized_dicom 'cloud-optimized-dicom>=2.2'
    } &
    installations=$!
}

end_installations() {
    wait "$installations" || true
    if [ -x .venv-snakemake/bin/snakemake ]; then
        SNAKEMAKE=$PWD/.venv-snakemake/bin/snakemake
        export SNAKEMAKE
    fi
    if .venv-cod/bin/python -c 'import cloud_optimized_dicom' 2>/dev/null; then
        COD_PYTHON=$PWD/.venv-cod/bin/python
        export COD_PYTHON
    fi
}
