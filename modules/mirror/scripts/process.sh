# For the scripts of this module.

# Whether the process of the pid file runs, and is the module's: its number may be another's by now. What the module started has the
# module's name in its environment.
runs() {
    pid=$(cat "$PID_FILE" 2>/dev/null) || return 1
    case $(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null) in
    '' | Z) return 1 ;;
    esac
    tr '\0' '\n' < "/proc/$pid/environ" 2>/dev/null | grep -qx "REPLICATOR_MODULE=$REPLICATOR_MODULE"
}
