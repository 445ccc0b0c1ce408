# shellcheck shell=bash
# Engines as native programs. They are for tests only and not safe against power loss (see fsync below).

# Starts an engine and waits until it answers. If another program took its port in the meantime and
# no port is required, tries the next one.
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
        # After somebody else's SIGKILL of PostgreSQL, its children first finish their current work.
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

# Succeeds if the log of this start reports that the engine is ready. An answer on the port alone
# might come from another program.
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
    # Persists nothing: its data is lost when it ends. Each test uses its own database, hence so
    # many. The configuration file comes first; the options after it override it.
    launch redis redis-server ${ENGINES_REDIS_CONFIG:+"$ENGINES_REDIS_CONFIG"} --port "$(recall redis port)" --bind 127.0.0.1 --databases 4096 --save '' --appendonly no \
        --daemonize no --logfile ''
}

# ---- PostgreSQL ----

# PostgreSQL refuses to run as root; in that case it runs as the user postgres.
postgres_as() {
    if [[ $EUID -eq 0 ]]; then
        id postgres >/dev/null 2>&1 || die "PostgreSQL does not run as root, and there is no user postgres: create it, or run this as another user"
        setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
    else
        "$@"
    fi
}

# Prints PostgreSQL's data folder: next to the other engines' data, or, if the user postgres cannot
# access that, in a separate folder whose name is derived from this one.
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
            # Accepts only a new folder or our own: everybody can write to these places.
            if mkdir -m 755 "$folder" 2>/dev/null || [[ -O "$folder" && ! -L "$folder" ]]; then break; fi
            folder=""
        done
        [[ -n "$folder" ]] || die "found no folder that the user postgres can access: set ENGINES_DIR to one"
        say "PostgreSQL's data is in $folder: the user postgres cannot access $DIR"
    fi
    remember postgres folder "$folder"
}

postgres_start() {
    local bin data made
    bin="$(postgres_bin)"
    choose_postgres_folder
    data="$(postgres_data)"
    if [[ ! -e "$data/PG_VERSION" ]]; then
        # The password is not a secret: the engine listens on localhost only and holds test data.
        made="$(mktemp "${TMPDIR:-/tmp}/engines.XXXXXX")"
        echo sports_bet >"$made"
        rm -rf "$data"
        mkdir -m 700 "$data"
        if [[ $EUID -eq 0 ]]; then chown postgres: "$data" "$made"; fi
        (cd / && postgres_as "$bin/initdb" -D "$data" -U sports_bet --pwfile="$made" --auth=scram-sha-256 -E UTF8 --locale=C --no-sync) \
            >"$DIR/postgres/initdb.log" 2>&1 9>&- || { tail -n 5 "$DIR/postgres/initdb.log" >&2; rm -f "$made"; die "initdb failed"; }
        rm -f "$made"
    fi
    # fsync=off is faster, and acceptable for a test engine: only a crash of the whole machine can
    # corrupt the data, a SIGKILL cannot.
    local run=("$bin/postgres" -D "$data" -p "$(recall postgres port)" -c listen_addresses=127.0.0.1 -c unix_socket_directories=
        -c fsync=off -c max_connections=300)
    if [[ $EUID -eq 0 ]]; then
        run=(setpriv --reuid=postgres --regid=postgres --init-groups -- "${run[@]}")
    fi
    # After a SIGKILL, postmaster.pid still names the old process. If that is a zombie, or another
    # program has its id by now, PostgreSQL refuses to start. So the file gets an id that no process
    # can have. PostgreSQL's other guard, the old server's shared memory, stays in force.
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
    # For repeated properties the last line wins.
    [[ -z "${ENGINES_KAFKA_CONFIG:-}" ]] || cat "$ENGINES_KAFKA_CONFIG" >>"$folder/server.properties"
    kafka_logging >"$folder/log4j2.properties"
    # Half of the heap is the young generation. With the default size, a thousand updates a second
    # filled it every two seconds, and each collection paused the broker for 20 to 30 ms.
    java=(java -Xms512m -Xmx512m -Xmn256m -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true
        "-Dlog4j2.configurationFile=$folder/log4j2.properties" -cp "$libs/*")
    if [[ ! -e "$folder/data/meta.properties" ]]; then
        rm -rf "$folder/data"
        # The id must not begin with a dash, which would be parsed as an option.
        local id
        id="$({ printf A; head -c 15 /dev/urandom; } | base64 | tr '+/' '-_' | cut -c 1-22)"
        "${java[@]}" kafka.tools.StorageTool format -t "$id" -c "$folder/server.properties" >"$folder/format.log" 2>&1 9>&- \
            || { tail -n 5 "$folder/format.log" >&2; die "could not format Kafka's data folder (see above)"; }
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
# Lets tests use short session timeouts to detect a dead consumer quickly.
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# The default would take a quarter of this small heap.
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

# Removes an engine's data and state.
native_wipe() {
    local folder
    folder="$(recall "$1" folder)"
    if [[ -n "$folder" && "$folder" != "$DIR/$1" ]]; then rm -rf "$folder"; fi
    rm -rf "${DIR:?}/$1"
}
