#!/usr/bin/env bash
# A hook for PostgreSQL 15 and later: `isochrone copy take --hook "examples/hooks/postgresql.sh DSN"`.
#
# The server writes a checkpoint and enters backup mode; the copy is taken; backup mode ends. A
# server started on the copy recovers from that checkpoint on, as it would after a crash: all files
# of the cluster, its WAL and its tablespaces must be on volumes of this one copy.
#
# Arguments are psql's (default: its environment). The role needs pg_backup_start and
# pg_backup_stop, as the superuser has. Without an end of our input the session ends by itself, and
# the server leaves backup mode.
set -euo pipefail

coproc SQL { exec psql -XqAt -v ON_ERROR_STOP=1 "$@" 2>&1; }
# shellcheck disable=SC2154 # bash sets SQL_PID
trap 'kill "$SQL_PID" 2>/dev/null || true' EXIT

ask() {  # SQL WORD: run it, wait until the word that follows it comes back
	printf '%s\n\\echo %s\n' "$1" "$2" >&"${SQL[1]}"
	local line
	while read -r -t "${ISOCHRONE_HOOK_SECONDS:-10}" line <&"${SQL[0]}"; do
		[ "$line" != "$2" ] || return 0
		echo "postgresql: $line" >&2
	done
	return 1
}

ask "SELECT 1 FROM pg_backup_start('isochrone', fast => true) \\g /dev/null" started
echo ready
read -r _ || true  # the end of our input: the copy is taken
ask "SELECT 1 FROM pg_backup_stop(wait_for_archive => false) \\g /dev/null" stopped
