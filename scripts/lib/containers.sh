# shellcheck shell=bash
# Engines as containers of docker/compose.yaml, in a separate compose project.

# Succeeds if the Docker daemon answers and has the compose plugin.
docker_answers() {
    command -v docker >/dev/null || return 1
    timeout 10 docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1
}

project() {
    echo "sports-bet-engines-$(cksum <<<"$DIR" | cut -d ' ' -f 1)"
}

compose() {
    # A port that is still empty belongs to an engine that this call does not start.
    ENGINES_KAFKA_PORT="$(recall kafka port)" ENGINES_REDIS_PORT="$(recall redis port)" ENGINES_POSTGRES_PORT="$(recall postgres port)" \
        POSTGRES_PASSWORD=sports_bet POSTGRES_OWNER_PASSWORD=owner POSTGRES_APP_PASSWORD=app REDIS_PASSWORD=none KAFKA_PASSWORD=none \
        GRAFANA_PASSWORD=none docker compose -p "$(project)" -f "$ROOT/docker/compose.yaml" -f "$ROOT/docker/compose.engines.yaml" "$@" 9>&-
}

docker_running() {
    [[ -n "$(compose ps -q --status running "$1" 2>/dev/null)" ]]
}

# Starts all containers in one call: two concurrent calls would both create the project's network.
docker_start() {
    if ! compose up -d --no-deps --wait --wait-timeout "$TIMEOUT" "$@" >"$DIR/docker.log" 2>&1; then
        compose logs --no-color --tail 20 "$@" >>"$DIR/docker.log" 2>&1 || true
        tail -n 20 "$DIR/docker.log" >&2
        die "one of these containers did not start (see above): $*"
    fi
}

docker_end() {
    if [[ "$2" == kill ]]; then compose kill -s SIGKILL "$1"; else compose stop -t 30 "$1"; fi >>"$DIR/docker.log" 2>&1 \
        || die "could not stop the container of $1; see $DIR/docker.log"
}

docker_wipe() {
    compose rm -f -s -v "$1" >>"$DIR/docker.log" 2>&1 || die "could not remove the container of $1; see $DIR/docker.log"
    # `rm -v` does not remove named volumes.
    docker volume rm -f "$(project)_$1" >>"$DIR/docker.log" 2>&1 || die "could not remove the volume of $1; see $DIR/docker.log"
}
