# For the scripts of this module.

# Run a program of PostgreSQL as its user, who alone may.
as_server() {
    if [ "$(id -u)" = 0 ]; then
        runuser -u "$PG_USER" -- "$@"
    else
        "$@"
    fi
}

# The processes of the server of this directory: each has it as its working directory. The number in postmaster.pid alone does not
# tell: it may be another process's by now.
server_processes() {
    data=$(readlink -f "$PGDATA") || return 0
    for process in /proc/[0-9]*; do
        { read -r name < "$process/comm"; } 2>/dev/null || continue
        case $name in
        postgres | postmaster) ;;
        *) continue ;;
        esac
        if [ "$(readlink "$process/cwd" 2>/dev/null)" = "$data" ]; then
            echo "${process#/proc/}"
        fi
    done
}

# The time limit of this script less what is needed to report.
patience() {
    if [ "$REPLICATOR_TIMEOUT" -gt 10 ]; then
        echo $((REPLICATOR_TIMEOUT - 5))
    else
        echo "$REPLICATOR_TIMEOUT"
    fi
}
