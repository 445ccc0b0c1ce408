# shellcheck shell=bash
# Ports and protocol probes in plain bash, without client programs.

# Sends bytes (in printf notation) and prints the first bytes of the answer in hexadecimal.
ask() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    timeout 3 bash -c '
        exec 3<>"/dev/tcp/$1/$2" || exit 1
        printf "$3" >&3
        head -c "$4" <&3 | od -An -v -tx1 | tr -d " \n"
    ' ask "$@" 2>/dev/null || true
}

# Succeeds if a program listens at an address.
listens() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    timeout 3 bash -c 'exec 3<>"/dev/tcp/$1/$2"' listens "$1" "$2" 2>/dev/null
}

# Succeeds if an address answers in the engine's protocol. With TLS it only has to listen.
answers_at() {
    local engine="$1" rest="$2" host port
    local tls=0
    [[ "$rest" != rediss://* && "${KAFKA_SECURITY_PROTOCOL:-}" != *SSL ]] || tls=1
    # For a URL, the part between the user's @ and the path; for a list, the first entry.
    rest="${rest#*://}"
    rest="${rest%%[/?]*}"
    rest="${rest##*@}"
    rest="${rest%%,*}"
    host="${rest%:*}"
    port="${rest##*:}"
    if [[ "$rest" != *:* ]]; then
        case "$engine" in kafka) port=9092 ;; redis) port=6379 ;; postgres) port=5432 ;; esac
    fi
    host="${host#[}"
    host="${host%]}"
    if (( tls )); then
        listens "$host" "$port"
        return
    fi
    case "$engine" in
        # ApiVersions, version 0: the response repeats our correlation id, 1.
        kafka) [[ "$(ask "$host" "$port" '\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff' 8)" == ????????00000001 ]] ;;
        # +PONG, or -NOAUTH if it requires a password; not -LOADING.
        redis) [[ "$(ask "$host" "$port" 'PING\r\n' 5)" == @(2b504f4e47|2d4e4f4155) ]] ;;
        # SSLRequest: the answer is S (53) or N (4e).
        postgres) [[ "$(ask "$host" "$port" '\x00\x00\x00\x08\x04\xd2\x16\x2f' 1)" == @(53|4e) ]] ;;
    esac
}

# Prints the port that ENGINES_…_PORT requires.
demanded_port() {
    local name="ENGINES_${1^^}_PORT"
    local port="${!name:-}"
    [[ -z "$port" || ( "$port" =~ ^[0-9]{1,5}$ && "$port" -ge 1 && "$port" -le 65535 ) ]] || die "$name is '$port', which is not a port (1 to 65535)"
    printf '%s' "$port"
}

# Prints the first free port of a hundred.
free_port() {
    local port
    for (( port = $1; port < $1 + 100; port++ )); do
        if ! listens 127.0.0.1 "$port"; then
            echo "$port"
            return
        fi
    done
    return 1
}

# Chooses the port of an engine that does not run: the required one, the previous one or a free one.
choose_port() {
    local engine="$1" port before from
    before="$(recall "$engine" port)"
    port="$(demanded_port "$engine")" || exit 1
    if [[ -n "$port" ]]; then
        ! listens 127.0.0.1 "$port" || die "$engine cannot use port $port (ENGINES_${engine^^}_PORT): another program listens on it"
    elif [[ -n "$before" ]] && ! listens 127.0.0.1 "$before"; then
        port="$before"
    elif [[ -n "$before" && "${STICKY:-0}" == 1 ]]; then
        die "$engine cannot restart on port $before: another program listens on it now"
    else
        case "$engine" in kafka) from=19292 ;; redis) from=16479 ;; postgres) from=15532 ;; esac
        port="$(free_port "$from")" || die "no free port for $engine from $from on: set ENGINES_${engine^^}_PORT"
        [[ -z "$before" ]] || say "$engine moves from port $before, which another program uses, to port $port"
    fi
    remember "$engine" port "$port"
}

# A running engine keeps its port. Requiring another one is an error.
must_match_port() {
    local port
    port="$(demanded_port "$1")" || exit 1
    [[ -z "$port" || "$port" == "$(recall "$1" port)" ]] \
        || die "$1 runs on port $(recall "$1" port), but ENGINES_${1^^}_PORT is $port: run 'scripts/engines down $1' first"
}
