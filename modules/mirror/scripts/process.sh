# For the scripts of this module.

# The state of a process, one letter; nothing if there is none.
state() {
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1
}

# The environment that a process began with, a variable in a line.
environment() {
    tr '\0' '\n' < "/proc/$1/environ" 2>/dev/null
}

# Whether the process of the pid file runs, and is the module's: its number may be another's by now. What the module started has the
# module's name in its environment.
runs() {
    pid=$(cat "$PID_FILE" 2>/dev/null) || return 1
    while :; do
        seen=$(environment "$pid")
        if [ -n "$seen" ]; then break; fi
        case $(state "$pid") in
        '' | Z | X) return 1 ;;
        esac
        # A thread of the kernel has no program, and no environment.
        readlink "/proc/$pid/exe" > /dev/null || return 1
        # While a process begins another program its environment cannot be seen for a moment.
        sleep 0.1
    done
    case $(state "$pid") in
    '' | Z | X) return 1 ;;
    esac
    printf '%s\n' "$seen" | grep -qx "REPLICATOR_MODULE=$REPLICATOR_MODULE"
}
