# shellcheck shell=bash
# Processes that are ours: known by their id and the time of their start, since ids are used again.

# When a process started, in a form that no later process of the same id has; nothing where it does not run (or only waits to be buried).
started_at() {
    local stat fields
    if [[ -d /proc/self ]]; then
        stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 0
        # The name in brackets may hold anything; the fields begin behind it with the state, the start is the twentieth of them.
        read -r -a fields <<<"${stat##*) }"
        [[ "${fields[0]}" == [ZX] ]] || echo "${fields[19]}@$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
    else
        stat="$(ps -o stat= -p "$1" 2>/dev/null)" || return 0
        [[ "$stat" == Z* ]] || ps -o lstart= -p "$1" 2>/dev/null | tr -s ' ' '_'
    fi
}

# The id of an engine's process, where it still is the one that was started.
process_of() {
    local pid start
    read -r pid start <<<"$(recall "$1" process)" || true
    if [[ -n "${pid:-}" && -n "${start:-}" && "$(started_at "$pid")" == "$start" ]]; then echo "$pid"; fi
}

native_running() {
    [[ -n "$(process_of "$1")" ]]
}

# Starts an engine's program in a session of its own, so that no Ctrl-C of ours reaches it, and remembers it.
launch() {
    local engine="$1" log="$DIR/$1/log" detach=nohup pid
    shift
    command -v setsid >/dev/null && detach=setsid
    [[ ! -e "$log" ]] || mv -f "$log" "$log.old"
    # Descriptor 9 is the lock of this folder: not to be held by what outlives us.
    ( cd "$DIR/$engine" && exec "$detach" "$@" </dev/null >"$log" 2>&1 9>&- ) &
    pid=$!
    remember "$engine" process "$pid $(started_at "$pid")"
}

# The children of a process.
children_of() {
    local stat fields
    for stat in /proc/[0-9]*/stat; do
        fields="$(cat "$stat" 2>/dev/null)" || continue
        read -r -a fields <<<"${fields##*) }"
        [[ "${fields[1]}" != "$1" ]] || basename "$(dirname "$stat")"
    done
}

# Ends an engine's process, if it is ours: with the signal of good order, and after half a minute or for `kill` with SIGKILL.
native_end() {
    local engine="$1" manner="$2" pid signal=TERM children deadline=$((SECONDS + 30))
    pid="$(process_of "$engine")"
    if [[ -n "$pid" ]]; then
        # PostgreSQL waits on SIGTERM until its clients have left; SIGINT sends them away.
        [[ "$engine" != postgres ]] || signal=INT
        if [[ "$manner" == kill ]]; then
            # Its children would otherwise still end what they were about.
            children="$(children_of "$pid")"
            # shellcheck disable=SC2086 # one word an id
            kill -KILL "$pid" $children 2>/dev/null || true
        else
            kill "-$signal" "$pid" 2>/dev/null || true
        fi
        while native_running "$engine"; do
            if (( SECONDS >= deadline )); then
                say "$engine does not end within 30 s: SIGKILL"
                kill -KILL "$pid" 2>/dev/null || true
                deadline=$((SECONDS + 30))
            fi
            sleep 0.05
        done
    fi
    forget "$engine" process
}
