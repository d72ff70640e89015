# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash
# bash completion for godwit(1). Commands, options and parameters are those
# that `godwit help` says; tests/style/docs.sh compares.

# Names of the VMs there are; with an argument only those that were started
# with --incoming (true) or without (false).
_godwit_vms()
{
	godwit list --json 2>/dev/null | awk -v want="${1-}" '
		$1 == "\"name\":"     { gsub(/[",]/, "", $2); name = $2 }
		$1 == "\"incoming\":" { sub(/,/, "", $2)
					if (want == "" || $2 == want) print name }'
}

# The words of $1 that begin with $2; $3 is put behind them.
_godwit_reply()
{
	local word

	COMPREPLY=()
	while read -r word; do
		COMPREPLY+=("$word")
	done < <(compgen ${3:+-S "$3"} -W "$1" -- "$2")
	[[ -z ${3-} ]] || compopt -o nospace 2>/dev/null
}

# Files, and what an answer to $1 may be besides them.
_godwit_files()
{
	local name

	COMPREPLY=()
	while read -r name; do
		COMPREPLY+=("$name")
	done < <(compgen -f -- "$1")
	compopt -o filenames 2>/dev/null
}

_godwit_commands()
{
	godwit help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p'
}

# Options of command $1, parameters included.
_godwit_options()
{
	godwit help "$1" 2>/dev/null |
		sed -n 's/^  \(-[a-zA-Z], \)*\(--[a-z-]*\).*/\2/p'
}

# Parameters of command $1.
_godwit_parameters()
{
	godwit help "$1" 2>/dev/null | sed -n '/^Parameters/,$p' |
		sed -n 's/^  --\([a-z-]*\) .*/\1/p'
}

# What turns a parameter of command $1 off.
_godwit_negations()
{
	godwit help "$1" 2>/dev/null | sed -n '/^Parameters/,$p' |
		sed -n 's/^  --\([a-z-]*\) .*(o[nf]*)$/--no-\1/p'
}

# Is option $2 of command $1 followed by a word of its own? In the list of
# options the word stands beside it; a parameter has one unless it is on or off.
_godwit_takes_value()
{
	[[ $2 == --* ]] && godwit help "$1" 2>/dev/null | awk -v option="$2" '
		/^Parameters/ { parameter = 1 }
		$1 == option  { if (parameter)
					found = !/\((on|off)\)$/
				else
					found = $0 ~ "^  " option " [^ ]" }
		END	      { exit !found }'
}

# What may be the value of option $2 of command $1, for its beginning $3.
_godwit_value()
{
	case $2 in
	--agent)	_godwit_reply "preload plugin" "$3" ;;
	--qmp)		_godwit_reply unix "$3" : ;;
	--free-page-hint) _godwit_reply "none agent" "$3" ;;
	--cache | --arbiter) _godwit_files "$3" ;;
	--tracker)	_godwit_reply "auto pagemap-scan uffd-wp" "$3" ;;
	--format)	[[ $1 != dump ]] || { _godwit_reply "raw elf" "$3"; return; }
			_godwit_reply "mapped-ram stream" "$3" ;;
	--set)		[[ $3 == *=* ]] ||
				_godwit_reply "$(_godwit_parameters "$1")" "$3" = ;;
	*)		_godwit_reply "on off" "$3" ;;
	esac
}

# $1 command, $2 how many arguments came before, $3 beginning.
_godwit_argument()
{
	case $1:$2 in
	help:0)
		_godwit_reply "$(_godwit_commands)" "$3" ;;
	migrate:0 | monitor:0 | check:0 | resume:0 | save:0 | protect:0)
		_godwit_reply "$(_godwit_vms)" "$3" ;;
	receive:1 | restore:1 | standby:1 | failover:0)
		_godwit_reply "$(_godwit_vms true)" "$3" ;;
	migrate:1 | check:1 | receive:0 | send:1 | protect:1 | standby:0)
		# behind the colon only the user knows
		[[ $3 == *:* ]] ||
			_godwit_reply "tcp unix fd exec" "$3" : ;;
	save:1 | restore:0 | send:0 | info:0 | verify:0 | diff:[01] | \
	convert:[01] | dump:[01])
		_godwit_files "$3" ;;
	esac
}

_godwit()
{
	local words cur prev command i arguments=0

	# COMP_WORDS is cut at colons, which URIs have.
	read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
	[[ ${COMP_LINE:0:COMP_POINT} != *[[:space:]] ]] || words+=("")
	cur=${words[-1]} prev=${words[-2]} command=${words[1]}
	COMPREPLY=()
	if ((${#words[@]} == 2)); then
		_godwit_reply "$(_godwit_commands)" "$cur"
		return
	fi
	for ((i = 2; i < ${#words[@]} - 1; i++)); do
		if [[ ${words[i]} == -- ]]; then # from here on it is QEMU's
			((i + 2 == ${#words[@]})) || return
			_godwit_reply "$(compgen -c qemu-system-)" "$cur"
			return
		fi
		[[ ${words[i]} == -* ]] ||
			_godwit_takes_value "$command" "${words[i - 1]}" ||
			arguments=$((arguments + 1))
	done
	case $cur in
	--*=*)	_godwit_value "$command" "${cur%%=*}" "${cur#*=}" ;;
	--no-*) _godwit_reply "$(_godwit_negations "$command")" "$cur" ;;
	-*)	_godwit_reply "$(_godwit_options "$command")" "$cur" ;;
	*)	if _godwit_takes_value "$command" "$prev"; then
			_godwit_value "$command" "$prev" "$cur"
		else
			_godwit_argument "$command" $arguments "$cur"
		fi ;;
	esac
}

complete -F _godwit godwit
