#!/bin/sh
# Build the images without a container engine and without a registry, and run them once as compose.yaml says:
# read-only, without privileges, between a PostgreSQL, a Redis and an Orthanc of this machine.
#
#   sh docker/try-buildah.sh          build, then run tests/test_images_run.py
#   sh docker/try-buildah.sh build    build only; TARGETS="worker-cuda" names other targets than node and worker-cpu
#   sh docker/try-buildah.sh clean    remove what the others made
#
# As root on Debian with apt-get install buildah debootstrap runc iproute2, and with what tests/install_peers.sh
# installs; about 6 GB and 10 minutes where the kernel has overlayfs. The base
# is made by debootstrap (Debian 12 with its Python 3.11) and not pulled. pip's configuration on this machine goes
# into the build, with the files and folders it names. TORCH_INDEX: see docker/Dockerfile; DEBIAN_MIRROR: another
# mirror than debootstrap's own.
set -eu
cd "$(dirname "$0")/.."

state=${HIPNODE_BUILDAH_STATE:-/var/tmp/hipnode-buildah}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' hipnode/__init__.py)
driver=vfs # a copy of everything for each step; where the kernel has overlayfs, only of what changed
! grep -qw overlay /proc/filesystems || driver=overlay
# Only here, so that whatever containers this machine has otherwise are left alone.
run_buildah() { buildah --storage-driver "$driver" --root "$state/$driver" --runroot "$state/run-$driver" "$@"; }

make_base() {
    base="$state/base"
    rm -rf "$base"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$base" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    rm -rf "$base"/var/cache/apt/archives "$base"/var/lib/apt/lists
    container=$(run_buildah from scratch)
    run_buildah add --quiet "$container" "$base" /
    run_buildah commit --quiet --rm "$container" localhost/hipnode-base
    rm -rf "$base"
}

# pip's configuration files, and every file or folder of this machine that they or PIP_* name; the files of an index
# in a folder lie beside its simple/
pip_mounts() {
    for file in /etc/pip.conf "$HOME/.pip/pip.conf" "$HOME/.config/pip/pip.conf"; do
        [ ! -f "$file" ] || echo "--volume $file:$(echo "$file" | sed "s|^$HOME|/root|"):ro"
    done
    python3 -m pip config list | tr "= '\"" '\n' | sed -n 's|^file://||; s|/simple$||; /^\//p' | sort -u | while read -r path; do
        [ ! -e "$path" ] || echo "--volume $path:$path:ro"
    done
}

build() { # TARGET; the docker format, for an OCI image has no health check
    # shellcheck disable=SC2046
    run_buildah build --isolation chroot --layers --format docker --pull-never \
        --file docker/Dockerfile --target "$1" --tag "localhost/hipnode-$1:$version" \
        --build-arg BASE=localhost/hipnode-base --build-arg VERSION="$version" \
        --build-arg TORCH_INDEX="${TORCH_INDEX:-}" $(pip_mounts) .
}

unpack() { # TARGET: its files and its configuration, where tests/test_images_run.py looks for them
    folder="$state/images/$1"
    mkdir -p "$folder"
    run_buildah rm "run-$1" >/dev/null 2>&1 || true
    run_buildah from --pull-never --name "run-$1" "localhost/hipnode-$1:$version" >/dev/null
    rm -f "$folder/rootfs"
    ln -s "$(run_buildah mount "run-$1")" "$folder/rootfs"
    run_buildah inspect --type image "localhost/hipnode-$1:$version" >"$folder/image.json"
}

if [ "${1:-}" = clean ]; then
    run_buildah rm --all
    run_buildah rmi --all --force
    rm -rf "$state"
    exit
fi
mkdir -p "$state"
run_buildah inspect --type image localhost/hipnode-base >/dev/null 2>&1 || make_base
for target in ${TARGETS:-node worker-cpu}; do
    build "$target"
    unpack "$target"
done
run_buildah images
[ "${1:-}" != build ] || exit 0

[ -x .venv/bin/pytest ] || make .venv/.dev
# A network of its own: the ports are those of compose.yaml, whatever else runs on this machine.
HIPNODE_IMAGES="$state/images" unshare --net sh -c '
    ip link set lo up
    ip address add 192.168.241.2/28 dev lo
    exec .venv/bin/pytest tests/test_images_run.py -v'
