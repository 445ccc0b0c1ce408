# shellcheck shell=bash
# The engines as programs of this machine. They are for tests: what they promise about a power cut is not kept (see fsync below).

# Starts an engine and waits until it answers. Where its port was taken in between, and none was demanded, it tries the next.
native_start() {
    local engine="$1" attempt
    mkdir -p "$DIR/$engine"
    for attempt in {1..10}; do
        "${engine}_start"
        native_await "$engine" && break
        if (( attempt < 3 )) && [[ "${STICKY:-0}" != 1 ]] && lost_its_port "$engine"; then
            choose_port "$engine"
            continue
        fi
        # After a SIGKILL of PostgreSQL from elsewhere its children end what they are about.
        if (( attempt < 10 )) && ! native_running "$engine" && grep -q 'is still in use' "$DIR/$engine/log"; then
            sleep 1
            continue
        fi
        tail -n 15 "$DIR/$engine/log" >&2 || true
        die "$engine did not start; its log: $DIR/$engine/log"
    done
    [[ "$engine" != postgres ]] || postgres_database
}

lost_its_port() {
    ! native_running "$1" && grep -qiE 'address already in use|could not bind' "$DIR/$1/log"
}

# Whether its log says of this start that it is ready. An answer on the port alone might be somebody else's.
native_ready() {
    case "$1" in
        kafka) grep -q 'Kafka Server started' "$DIR/kafka/log" ;;
        redis) grep -q 'Ready to accept connections' "$DIR/redis/log" ;;
        postgres) [[ "$(sed -n '1p;8p' "$(postgres_data)/postmaster.pid" 2>/dev/null)" == "$(process_of postgres)"$'\n'ready* ]] ;;
    esac
}

native_await() {
    local deadline=$((SECONDS + TIMEOUT))
    until native_ready "$1" && answers "$1"; do
        if ! native_running "$1" || (( SECONDS >= deadline )); then return 1; fi
        sleep 0.1
    done
}

redis_start() {
    # It writes nothing: what it held is gone when it ends. A database a test, so many of them.
    # A configuration file comes first; the options after it win.
    launch redis redis-server ${ENGINES_REDIS_CONFIG:+"$ENGINES_REDIS_CONFIG"} --port "$(recall redis port)" --bind 127.0.0.1 --databases 4096 --save '' --appendonly no \
        --daemonize no --logfile ''
}

# ---- PostgreSQL ----

# It refuses to run as root; then it runs as the user postgres.
postgres_as() {
    if [[ $EUID -eq 0 ]]; then
        id postgres >/dev/null 2>&1 || die "PostgreSQL does not run as root, and there is no user postgres: make one, or run this as another user"
        setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
    else
        "$@"
    fi
}

# Its data: beside that of the others, or where the user postgres cannot go there, in a folder of its own, named after this one.
postgres_data() {
    local folder
    folder="$(recall postgres folder)"
    printf '%s/data' "${folder:-$DIR/postgres}"
}

choose_postgres_folder() {
    local folder base
    [[ -z "$(recall postgres folder)" ]] || return 0
    folder="$DIR/postgres"
    if ! (cd / && postgres_as test -x "$folder"); then
        for base in /var/tmp /tmp; do
            folder="$base/sports-bet-postgres-$(cksum <<<"$DIR" | cut -d ' ' -f 1)"
            # Only a folder that is new or ours: these places belong to everybody.
            if mkdir -m 755 "$folder" 2>/dev/null || [[ -O "$folder" && ! -L "$folder" ]]; then break; fi
            folder=""
        done
        [[ -n "$folder" ]] || die "no folder that the user postgres can reach: set ENGINES_DIR to one"
        say "PostgreSQL's data is in $folder: its user cannot reach $DIR"
    fi
    remember postgres folder "$folder"
}

postgres_start() {
    local bin data made
    bin="$(postgres_bin)"
    choose_postgres_folder
    data="$(postgres_data)"
    if [[ ! -e "$data/PG_VERSION" ]]; then
        # The password is no secret: the engine listens on this machine only and holds test data.
        made="$(mktemp "${TMPDIR:-/tmp}/engines.XXXXXX")"
        echo sports_bet >"$made"
        rm -rf "$data"
        mkdir -m 700 "$data"
        if [[ $EUID -eq 0 ]]; then chown postgres: "$data" "$made"; fi
        (cd / && postgres_as "$bin/initdb" -D "$data" -U sports_bet --pwfile="$made" --auth=scram-sha-256 -E UTF8 --locale=C --no-sync) \
            >"$DIR/postgres/initdb.log" 2>&1 9>&- || { tail -n 5 "$DIR/postgres/initdb.log" >&2; rm -f "$made"; die "initdb failed"; }
        rm -f "$made"
    fi
    # fsync=off, since it is a test engine: quicker, and only a fall of the whole machine could hurt it, not a SIGKILL.
    local run=("$bin/postgres" -D "$data" -p "$(recall postgres port)" -c listen_addresses=127.0.0.1 -c unix_socket_directories=
        -c fsync=off -c max_connections=300)
    if [[ $EUID -eq 0 ]]; then
        run=(setpriv --reuid=postgres --regid=postgres --init-groups -- "${run[@]}")
    fi
    # After a SIGKILL the file names the old process. While that waits to be buried, or its id is another program's by now, PostgreSQL
    # would refuse to start; so the file gets an id that nobody can have. Its other guard, the old one's shared memory, stays in force.
    if [[ -e "$data/postmaster.pid" && -z "$(process_of postgres)" ]]; then sed -i '1s/.*/2147483647/' "$data/postmaster.pid"; fi
    launch postgres "${run[@]}"
}

postgres_database() {
    local psql=("$(postgres_bin)/psql" -X -q -t -A -h 127.0.0.1 -p "$(recall postgres port)" -U sports_bet -d postgres)
    [[ -x "${psql[0]}" ]] || psql[0]=psql
    if [[ "$(PGPASSWORD=sports_bet "${psql[@]}" -c "SELECT 1 FROM pg_database WHERE datname = 'sports_bet'")" != 1 ]]; then
        PGPASSWORD=sports_bet "${psql[@]}" -c 'CREATE DATABASE sports_bet'
    fi
}

# ---- Kafka ----

kafka_start() {
    local port controller libs folder="$DIR/kafka" java
    fetch_kafka
    libs="$(kafka_libs)"
    port="$(recall kafka port)"
    controller="$(recall kafka controller_port)"
    if [[ -z "$controller" ]] || listens 127.0.0.1 "$controller"; then
        controller="$(free_port $((port + 1000)))" || die "no free port for Kafka's controller from $((port + 1000)) on"
        remember kafka controller_port "$controller"
    fi
    kafka_properties "$port" "$controller" >"$folder/server.properties"
    # The last line of a name wins.
    [[ -z "${ENGINES_KAFKA_CONFIG:-}" ]] || cat "$ENGINES_KAFKA_CONFIG" >>"$folder/server.properties"
    kafka_logging >"$folder/log4j2.properties"
    # Half of the memory is for what is new: under a thousand updates a second the default's part was full every two seconds,
    # and each time the broker stood still for 20 to 30 ms.
    java=(java -Xms512m -Xmx512m -Xmn256m -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true
        "-Dlog4j2.configurationFile=$folder/log4j2.properties" -cp "$libs/*")
    if [[ ! -e "$folder/data/meta.properties" ]]; then
        rm -rf "$folder/data"
        # An id that does not begin with a dash, which would be taken for an option.
        local id
        id="$({ printf A; head -c 15 /dev/urandom; } | base64 | tr '+/' '-_' | cut -c 1-22)"
        "${java[@]}" kafka.tools.StorageTool format -t "$id" -c "$folder/server.properties" >"$folder/format.log" 2>&1 9>&- \
            || { tail -n 5 "$folder/format.log" >&2; die "Kafka's data folder could not be made"; }
    fi
    launch kafka "${java[@]}" kafka.Kafka "$folder/server.properties"
}

kafka_properties() {
    cat <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$2
listeners=PLAINTEXT://127.0.0.1:$1,CONTROLLER://127.0.0.1:$2
advertised.listeners=PLAINTEXT://127.0.0.1:$1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=${DIR//\\/\\\\}/kafka/data
num.partitions=4
auto.create.topics.enable=false
delete.topic.enable=true
log.segment.delete.delay.ms=1000
group.initial.rebalance.delay.ms=0
# Tests may want a dead consumer to be noticed quickly.
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# The default takes a quarter of this small heap.
log.cleaner.dedupe.buffer.size=16777216
PROPERTIES
}

kafka_logging() {
    cat <<'PROPERTIES'
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c{1})%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
logger.started.name=kafka.server.KafkaRaftServer
logger.started.level=info
PROPERTIES
}

# Removes an engine's data and all that is known of it.
native_wipe() {
    local folder
    folder="$(recall "$1" folder)"
    if [[ -n "$folder" && "$folder" != "$DIR/$1" ]]; then rm -rf "$folder"; fi
    rm -rf "${DIR:?}/$1"
}
