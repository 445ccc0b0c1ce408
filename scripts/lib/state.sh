# shellcheck shell=bash
# State of the engines: from the environment, and from the folder where `up` records what it started.

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

remember() {
    mkdir -p "$DIR/$1"
    printf '%s\n' "$3" >"$DIR/$1/$2.new"
    mv -f "$DIR/$1/$2.new" "$DIR/$1/$2"
}

# Prints a recorded value, or nothing.
recall() {
    if [[ -r "$DIR/$1/$2" ]]; then cat "$DIR/$1/$2"; fi
}

forget() {
    rm -f "$DIR/$1/$2"
}

# Runs a function under the lock of the folder. Engines must not inherit the lock: see `launch`.
locked() {
    mkdir -p "$DIR" || die "cannot create the folder $DIR (set ENGINES_DIR to another one)"
    if command -v flock >/dev/null; then
        exec 9>>"$DIR/lock"
        flock -w 300 9 || die "another call has held the lock $DIR/lock for more than 5 minutes"
        "$@"
        exec 9>&-
    else
        "$@"
    fi
}

variable() {
    case "$1" in
        kafka) echo KAFKA_BROKERS ;;
        redis) echo REDIS_URL ;;
        postgres) echo DATABASE_URL ;;
    esac
}

# Prints the address of the engine that `up` starts, or nothing if its port is not known yet.
own_address() {
    local port
    port="$(recall "$1" port)"
    [[ -n "$port" ]] || return 0
    case "$1" in
        kafka) echo "127.0.0.1:$port" ;;
        redis) echo "redis://127.0.0.1:$port/0" ;;
        postgres) echo "postgres://sports_bet:sports_bet@127.0.0.1:$port/sports_bet" ;;
    esac
}

# Prints the address in the environment, if it belongs to a real engine and is not our own, which
# `export` may have put there.
given() {
    local value
    [[ -z "${ENGINES_WITH:-}" ]] || return 0
    value="$(variable "$1")"
    value="${!value:-}"
    [[ "$1" != postgres || "$value" == postgres://* || "$value" == postgresql://* ]] || return 0
    [[ "$value" == "$(own_address "$1")" ]] || printf '%s' "$value"
}

# Prints given, docker or native, or nothing if it is not known yet.
how() {
    if [[ -n "$(given "$1")" ]]; then echo given; else recall "$1" how; fi
}

address() {
    local value
    value="$(given "$1")"
    if [[ -n "$value" ]]; then printf '%s' "$value"; else own_address "$1"; fi
}

# Prints an address without its password.
shown() {
    sed -E 's#://([^:@/]*):[^@/]*@#://\1:***@#' <<<"$1"
}

# Chooses docker or native for an engine, unless that was chosen before.
choose_way() {
    local way="${ENGINES_WITH:-}"
    case "$way" in
        native | docker | "") ;;
        *) die "ENGINES_WITH is '$way', expected native or docker" ;;
    esac
    [[ -n "$way" ]] || way="$(recall "$1" how)"
    if [[ -z "$way" ]]; then
        if docker_answers; then way=docker; else way=native; fi
    fi
    remember "$1" how "$way"
}

running() {
    case "$(recall "$1" how)" in
        docker) docker_running "$1" ;;
        native) native_running "$1" ;;
        *) return 1 ;;
    esac
}

# Succeeds if an engine answers. The process of our own engine must run too: another program may
# have its port by now.
answers() {
    if [[ "$(how "$1")" != given ]]; then
        running "$1" || return 1
    fi
    answers_at "$1" "$(address "$1")"
}

# Waits until an engine answers.
await() {
    local deadline=$((SECONDS + TIMEOUT))
    until answers "$1"; do
        if (( SECONDS >= deadline )); then
            say "$1 does not answer within $TIMEOUT s; its log: $DIR/$1/log"
            return 1
        fi
        sleep 0.1
    done
}
