#!/usr/bin/env bash
# A hook for MySQL and MariaDB: `isochrone copy take --hook "examples/hooks/mysql.sh"`.
#
# All tables are locked against writes and written out, the copy is taken, the session ends and
# with it the lock. Arguments are those of the `mysql` client. Not tried in the project's tests,
# which have no such server; try it by itself before you trust it: run it, wait for `ready`, see
# that a write hangs, and press ^D.
set -euo pipefail

coproc SQL { exec mysql --batch --skip-column-names --unbuffered "$@" 2>&1; }
# shellcheck disable=SC2154 # bash sets SQL_PID
trap 'kill "$SQL_PID" 2>/dev/null || true' EXIT

ask() {  # SQL: run it, wait until the server has answered what follows it
	printf "%s; SELECT 'isochrone-done';\n" "$1" >&"${SQL[1]}"
	local line
	while read -r -t "${ISOCHRONE_HOOK_SECONDS:-10}" line <&"${SQL[0]}"; do
		[ "$line" != isochrone-done ] || return 0
		echo "mysql: $line" >&2
	done
	return 1
}

ask "FLUSH TABLES WITH READ LOCK"
echo ready
read -r _ || true  # the end of our input: the copy is taken
ask "UNLOCK TABLES"
