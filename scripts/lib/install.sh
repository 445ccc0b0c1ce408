# shellcheck shell=bash
# Programs of the native engines: finds them, installs them if possible, or says how to install them.

KAFKA_VERSION=4.1.0
KAFKA_SCALA=2.13
LOG4J_VERSION=2.24.3

# Prints the newest folder with PostgreSQL's server programs.
postgres_bin() {
    local found
    found="$(compgen -G '/usr/lib/postgresql/*/bin/postgres' | sort -V | tail -n 1)" || true
    [[ -n "$found" ]] || found="$(command -v postgres || true)"
    if [[ -n "$found" && -x "$(dirname "$found")/initdb" ]]; then dirname "$found"; fi
}

# Installs Debian packages if run as root, without starting their services.
apt() {
    local policy=/usr/sbin/policy-rc.d made=0 code=0
    [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null || return 1
    say "installing $* …"
    if [[ ! -e "$policy" ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1
    fi
    # Keeps Debian from creating its own cluster.
    mkdir -p /etc/postgresql-common/createcluster.d
    [[ "$*" != *postgresql* ]] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/sports-bet-engines.conf
    local install=(apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "$@")
    export DEBIAN_FRONTEND=noninteractive
    { "${install[@]}" || { apt-get update -qq && "${install[@]}"; }; } >"$DIR/apt.log" 2>&1 9>&- || code=1
    (( made == 0 )) || rm -f "$policy"
    (( code == 0 )) || tail -n 3 "$DIR/apt.log" >&2
    return "$code"
}

# Makes sure that an engine's programs are installed. Maven fetches Kafka itself later.
install_programs() {
    case "$1" in
        redis)
            command -v redis-server >/dev/null || apt redis-server || true
            command -v redis-server >/dev/null \
                || die "redis-server is missing: 'apt-get install redis-server' as root, or set REDIS_URL to a running Redis"
            ;;
        postgres)
            [[ -n "$(postgres_bin)" ]] || apt postgresql || true
            # Only the tests with a pooler need it, the engine does not.
            [[ -x /usr/sbin/pgbouncer ]] || command -v pgbouncer >/dev/null || apt pgbouncer || true
            [[ -n "$(postgres_bin)" ]] \
                || die "PostgreSQL's server programs are missing: 'apt-get install postgresql' as root, or set DATABASE_URL to a running PostgreSQL"
            ;;
        kafka)
            command -v java >/dev/null || apt default-jre-headless || true
            command -v java >/dev/null \
                || die "java (17 or newer) is missing for Kafka: 'apt-get install default-jre-headless' as root, or set KAFKA_BROKERS to a running Kafka"
            [[ -n "$(kafka_libs)" ]] || command -v mvn >/dev/null || apt maven || true
            [[ -n "$(kafka_libs)" ]] || command -v mvn >/dev/null \
                || die "mvn, which fetches Kafka, is missing: 'apt-get install maven' as root, or set KAFKA_BROKERS to a running Kafka"
            ;;
    esac
}

# Prints the folder for programs that are fetched once and shared by all engine folders.
cache_folder() {
    local folder="${ENGINES_CACHE:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/sports-bet}"
    if mkdir -p "$folder" 2>/dev/null && [[ -w "$folder" ]]; then echo "$folder"; else echo "$DIR/cache"; fi
}

# Prints the folder of Kafka's jars if it exists.
kafka_libs() {
    local libs
    libs="$(cache_folder)/kafka_$KAFKA_SCALA-$KAFKA_VERSION"
    if [[ -d "$libs" ]]; then echo "$libs"; fi
}

# Fetches Kafka with Maven into a temporary folder, which gets its final name only when complete.
fetch_kafka() {
    local cache work options=()
    [[ -z "$(kafka_libs)" ]] || return 0
    cache="$(cache_folder)"
    mkdir -p "$cache"
    work="$(mktemp -d "$cache/fetching.XXXXXX")"
    say "fetching Kafka $KAFKA_VERSION with Maven …"
    cat >"$work/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>engines</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_$KAFKA_SCALA</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$LOG4J_VERSION</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>$LOG4J_VERSION</version></dependency>
  </dependencies>
</project>
XML
    # Maven caches downloads in the home folder, which some users do not have.
    [[ -w "${HOME:-/nonexistent}" ]] || options+=("-Dmaven.repo.local=$cache/m2")
    if ! mvn -B -q "${options[@]}" -f "$work/pom.xml" dependency:copy-dependencies -DoutputDirectory="$work/libs" -DincludeScope=runtime >"$work/log" 2>&1 9>&-; then
        tail -n 5 "$work/log" >&2
        rm -rf "$work"
        die "Maven could not fetch Kafka $KAFKA_VERSION (see above): fix that, or set KAFKA_BROKERS to a running Kafka"
    fi
    # A concurrent call may have finished first; its copy is just as good.
    mv -T "$work/libs" "$cache/kafka_$KAFKA_SCALA-$KAFKA_VERSION" 2>/dev/null || true
    rm -rf "$work"
    [[ -n "$(kafka_libs)" ]] || die "could not move Kafka into $cache"
}
