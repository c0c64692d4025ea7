# What BetterPG needs from Debian, in one place: deploy/quickstart and tests/run source this.
# Nothing here starts a service: no PostgreSQL cluster is made, and services of packages are kept
# from starting while they are installed.
# shellcheck shell=bash disable=SC2034

readonly BUILD_PACKAGES=(
    cmake ninja-build clang-19 lld-19 ccache pkg-config
    libboost1.81-dev libboost-system1.81-dev libboost-url1.81-dev libpqxx-dev librocksdb-dev
    libyaml-cpp-dev prometheus-cpp-dev nlohmann-json3-dev libcli11-dev libfmt-dev libabsl-dev
    libssl-dev libzstd-dev libxxhash-dev)
readonly RUN_PACKAGES=(postgresql-15 postgresql-client-15 btrfs-progs util-linux mount)
readonly TEST_PACKAGES=(
    git python3 clang-format-19 clang-tidy-19 libclang-rt-19-dev llvm-19 libgtest-dev libgmock-dev
    libbenchmark-dev xfsprogs prometheus zfs-fuse docker.io iptables iproute2 debootstrap
    docker-registry python3-croniter)

# Sentences on stderr; the reason of a refusal and what to do are one sentence each.
refuse() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    printf '  %s\n' "$2" >&2
    exit 1
}

require_debian_12_as_root() {
    local id='' version=''
    if [[ -r /etc/os-release ]]; then
        id=$(. /etc/os-release && printf '%s' "${ID:-}")
        version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")
    fi
    if [[ $id != debian || $version != 12 ]]; then
        refuse "this machine is ${id:-unknown} ${version:-}, and this script knows Debian 12 only" \
            "Use a Debian 12 machine, or install what deploy/packages.sh lists by hand and build."
    fi
    if [[ $EUID -ne 0 ]]; then
        refuse "packages, loop devices and the postgres user need root" "Run it again as root."
    fi
}

is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Debian makes and starts a cluster on port 5432 when a server package is installed, unless told so
# before.
forbid_main_cluster() {
    local file=/etc/postgresql-common/createcluster.conf
    if [[ -e $file ]] && grep -Eq '^[[:space:]]*create_main_cluster[[:space:]]*=' "$file"; then
        return 0  # the administrator has decided
    fi
    mkdir -p "${file%/*}"
    printf '\n# BetterPG runs its own instances.\ncreate_main_cluster = false\n' >>"$file"
}

# install_packages NAME...: those that are missing; quiet when there are none.
install_packages() {
    local missing=() name log policy=/usr/sbin/policy-rc.d made_policy=0 failed=0
    for name in "$@"; do
        is_installed "$name" || missing+=("$name")
    done
    if [[ ${#missing[@]} -eq 0 ]]; then
        return 0
    fi
    printf 'installing %d packages: %s\n' "${#missing[@]}" "${missing[*]}"
    forbid_main_cluster
    if [[ ! -e $policy ]]; then
        # invoke-rc.d asks this before it starts anything; 101 means no.
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made_policy=1
    fi
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1
    { apt-get update && apt-get install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold "${missing[@]}"; } >"$log" 2>&1 || failed=1
    if [[ $made_policy -eq 1 ]]; then
        rm -f "$policy"
    fi
    if [[ $failed -eq 1 ]]; then
        tail -n 30 "$log" >&2
        refuse "apt-get could not install: ${missing[*]}" "Its whole output is in $log."
    fi
    rm -f "$log"
    keep_services_off "${missing[@]}"
}

# What was installed now does not begin to run at the next boot either.
keep_services_off() {
    if [[ ! -d /run/systemd/system ]]; then
        return 0
    fi
    local name
    for name in "$@"; do
        case $name in
            docker.io) systemctl disable --quiet docker.service docker.socket || true ;;
            prometheus | zfs-fuse | docker-registry)
                systemctl disable --quiet "$name.service" || true
                ;;
        esac
    done
}
