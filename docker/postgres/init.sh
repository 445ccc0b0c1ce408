#!/bin/sh
# Runs once, when the container creates its database.
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    -v owner_password="$POSTGRES_OWNER_PASSWORD" -v app_password="$POSTGRES_APP_PASSWORD" -f /etc/sports-bet/roles.sql
