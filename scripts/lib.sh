# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=sh
#
# What the scripts of this folder share; sourced, never run.
#
# Everything that is fetched or built for tests and demos lives below
# GODWIT_DEPS (default: .deps of this checkout) and nowhere else, so that
# removing that folder undoes all of it.

prog=${0##*/}
scripts=$(cd "${0%/*}" && pwd)
checkout=$(cd "$scripts/.." && pwd)
GODWIT_DEPS=${GODWIT_DEPS:-$checkout/.deps}
case $GODWIT_DEPS in
/*) ;;
*) GODWIT_DEPS=$PWD/$GODWIT_DEPS ;;
esac
export GODWIT_DEPS

say()
{
	echo "godwit: $*" >&2
}

die()
{
	echo "$prog: $*" >&2
	exit 1
}

usage()
{
	echo "usage: $*" >&2
	exit 2
}

# Not a failure of godwit: this machine has no way to provide it.  77 is what
# test runners take for "skipped".
unavailable()
{
	echo "$prog: not available here: $*" >&2
	exit 77
}

# os_release KEY: the value of KEY in the machine's os-release file, or nothing.
os_release()
{
	[ -r /etc/os-release ] || return 0
	# shellcheck disable=SC1091
	(. /etc/os-release && eval "printf '%s' \"\${$1:-}\"")
}

# scratch_dir: set $scratch to a fresh directory below GODWIT_DEPS (so that its
# content can be renamed into place) that goes away with the script.
scratch_dir()
{
	mkdir -p "$GODWIT_DEPS"
	scratch=$(mktemp -d "$GODWIT_DEPS/.$prog.XXXXXX")
	chmod 755 "$scratch"
	trap 'rm -rf "$scratch"' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# lock NAME: one at a time for the rest of the script.
lock()
{
	mkdir -p "$GODWIT_DEPS"
	exec 9>"$GODWIT_DEPS/.lock-$1"
	flock 9
}

# quietly COMMAND...: show its output only when it fails.
quietly()
{
	if ! "$@" >"$scratch/log" 2>&1 </dev/null; then
		cat "$scratch/log" >&2
		return 1
	fi
}
