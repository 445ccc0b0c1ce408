# shellcheck shell=bash
# Our processes, identified by id and start time, because ids are reused.

# Prints the start time of a process, in a form that no later process with the same id has. Prints
# nothing if it does not run (or is a zombie).
started_at() {
    local stat fields
    if [[ -d /proc/self ]]; then
        stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 0
        # The name in brackets may contain anything. The fields after it begin with the state; the
        # start time is the twentieth of them.
        read -r -a fields <<<"${stat##*) }"
        [[ "${fields[0]}" == [ZX] ]] || echo "${fields[19]}@$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
    else
        stat="$(ps -o stat= -p "$1" 2>/dev/null)" || return 0
        [[ "$stat" == Z* ]] || ps -o lstart= -p "$1" 2>/dev/null | tr -s ' ' '_'
    fi
}

# Prints the id of an engine's process if it is still the one that was started.
process_of() {
    local pid start
    read -r pid start <<<"$(recall "$1" process)" || true
    if [[ -n "${pid:-}" && -n "${start:-}" && "$(started_at "$pid")" == "$start" ]]; then echo "$pid"; fi
}

native_running() {
    [[ -n "$(process_of "$1")" ]]
}

# Starts an engine's program in a separate session, so that Ctrl-C does not reach it, and records
# it.
launch() {
    local engine="$1" log="$DIR/$1/log" detach=nohup pid
    shift
    command -v setsid >/dev/null && detach=setsid
    [[ ! -e "$log" ]] || mv -f "$log" "$log.old"
    # Descriptor 9 is the lock of this folder. A program that outlives this script must not hold it.
    ( cd "$DIR/$engine" && exec "$detach" "$@" </dev/null >"$log" 2>&1 9>&- ) &
    pid=$!
    remember "$engine" process "$pid $(started_at "$pid")"
}

# Prints the ids of a process's children.
children_of() {
    local stat fields
    for stat in /proc/[0-9]*/stat; do
        fields="$(cat "$stat" 2>/dev/null)" || continue
        read -r -a fields <<<"${fields##*) }"
        [[ "${fields[1]}" != "$1" ]] || basename "$(dirname "$stat")"
    done
}

# Ends an engine's process if it is ours: with its shutdown signal, and with SIGKILL after half a
# minute or for `kill`.
native_end() {
    local engine="$1" manner="$2" pid signal=TERM children deadline=$((SECONDS + 30))
    pid="$(process_of "$engine")"
    if [[ -n "$pid" ]]; then
        # On SIGTERM PostgreSQL waits for its clients to disconnect; SIGINT disconnects them.
        [[ "$engine" != postgres ]] || signal=INT
        if [[ "$manner" == kill ]]; then
            # Otherwise its children would still finish their current work.
            children="$(children_of "$pid")"
            # shellcheck disable=SC2086 # one word per id
            kill -KILL "$pid" $children 2>/dev/null || true
        else
            kill "-$signal" "$pid" 2>/dev/null || true
        fi
        while native_running "$engine"; do
            if (( SECONDS >= deadline )); then
                say "$engine did not end within 30 s, sending SIGKILL"
                kill -KILL "$pid" 2>/dev/null || true
                deadline=$((SECONDS + 30))
            fi
            sleep 0.05
        done
    fi
    forget "$engine" process
}
