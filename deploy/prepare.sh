#!/bin/sh
# Write what compose.yaml reads and git does not hold: .env, secrets/ with new passwords, and site/ for your
# settings. Safe to repeat: only the version in .env follows this checkout, everything else stays as it is.
set -eu
cd "$(dirname "$0")"

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' ../hipnode/__init__.py)
[ -n "$version" ] || { echo "No version in hipnode/__init__.py: run this from a whole checkout." >&2; exit 1; }
[ -e .env ] || echo "COMPOSE_PROJECT_NAME=hipnode" >.env
sed '/^HIPNODE_VERSION=/d' .env >.env.new
echo "HIPNODE_VERSION=$version" >>.env.new
mv .env.new .env

if [ ! -e secrets ]; then
    password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
    ledger=$(password)
    broker=$(password)
    # Compose hands a file on with its owner and mode, and several users read these in their containers.
    # So the files are readable, and the folder keeps the other users of this machine out.
    rm -rf secrets.new
    mkdir -m 0700 secrets.new
    echo "$ledger" >secrets.new/postgres_password
    echo "postgresql://hipnode:$ledger@postgres/hipnode" >secrets.new/hipnode_database_url
    echo "requirepass $broker" >secrets.new/redis_conf
    echo "redis://:$broker@redis:6379/0" >secrets.new/hipnode_broker_url
    chmod 0444 secrets.new/*
    mv secrets.new secrets
fi

umask 022
mkdir -p site/packages
[ -e site/hipnode.env ] || cat >site/hipnode.env <<'END'
# The settings of this site. hipnode.env.example has every one with its default; compose.yaml itself sets the
# data folder, addresses, ports and where this folder lies inside (/etc/hipnode), secrets/ holds the URLs.

# Who may send images: AE title and address of your PACS, for example PACS@10.1.2.3/32. Empty: nobody.
HIPNODE_ALLOWED_PEERS=
END
[ -e site/destinations.toml ] || cat >site/destinations.toml <<'END'
# Where results go. Without a destination they are built and kept.
# [[destination]]
# name = "PACS"
# ae_title = "PACS"
# host = "10.1.2.3"
# port = 104
END
echo "Version $version. Your settings are in deploy/site, passwords in deploy/secrets."
