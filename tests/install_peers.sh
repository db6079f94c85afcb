#!/bin/sh
# Install the neighbours the tests talk to, and docker-compose for `make lint`, where that is possible: Debian, as
# root or with sudo. Elsewhere what misses one is skipped by name.
set -eu

wanted="redis-server postgresql orthanc dcmtk dicom3tools strace prometheus docker-compose"
missing=""
for package in $wanted; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Not Debian: tests that need$missing will be skipped by name."
    exit 0
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "Neither root nor sudo without a password: tests that need$missing will be skipped by name."
        exit 0
    fi
    as_root="sudo"
fi

# The packages' own services stay off: the tests run private instances on free ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
