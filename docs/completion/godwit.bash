# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash
# bash completion for godwit(1). tests/style/docs.sh compares it with what
# `godwit help` says.

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

_godwit_parameters="max-bandwidth downtime-limit handover-timeout \
connect-timeout idle-timeout max-passes stall-passes verify native tracker"

# Options that are followed by a word of their own.
_godwit_takes_value()
{
	case $1 in
	--agent | --memory | --set | --tracker | --max-bandwidth | \
	--downtime-limit | --handover-timeout | --connect-timeout | \
	--idle-timeout | --max-passes | --stall-passes)
		return 0 ;;
	esac
	return 1
}

# What may be the value of option $1, for its beginning $2.
_godwit_value()
{
	case $1 in
	--agent)	_godwit_reply "preload plugin" "$2" ;;
	--tracker)	_godwit_reply "auto pagemap-scan uffd-wp" "$2" ;;
	--verify | --native)
			_godwit_reply "on off" "$2" ;;
	--set)		[[ $2 == *=* ]] ||
				_godwit_reply "$_godwit_parameters" "$2" = ;;
	esac
}

# $1 command, $2 how many arguments came before, $3 beginning.
_godwit_argument()
{
	case $1:$2 in
	help:0)
		_godwit_reply "$_godwit_commands" "$3" ;;
	migrate:0 | check:0 | resume:0)
		_godwit_reply "$(_godwit_vms)" "$3" ;;
	receive:1)
		_godwit_reply "$(_godwit_vms true)" "$3" ;;
	migrate:1 | check:1 | receive:0)
		# behind the colon only the user knows
		[[ $3 == *:* ]] ||
			_godwit_reply "tcp unix fd exec" "$3" : ;;
	esac
}

_godwit_commands="run list check migrate receive resume help version"

_godwit()
{
	local words cur prev command options i arguments=0

	# COMP_WORDS is cut at colons, which URIs have.
	read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
	[[ ${COMP_LINE:0:COMP_POINT} != *[[:space:]] ]] || words+=("")
	cur=${words[-1]} prev=${words[-2]} command=${words[1]}
	COMPREPLY=()
	if ((${#words[@]} == 2)); then
		_godwit_reply "$_godwit_commands" "$cur"
		return
	fi
	case $command in
	run)	options="--incoming --memory --hugepages --agent --dry-run" ;;
	list | check)
		options="--json" ;;
	migrate | receive)
		# shellcheck disable=SC2086 # a list of words
		options="--json --quiet --set \
			$(printf -- '--%s ' $_godwit_parameters)" ;;
	resume)	options="--yes" ;;
	*)	options= ;;
	esac
	for ((i = 2; i < ${#words[@]} - 1; i++)); do
		if [[ ${words[i]} == -- ]]; then # from here on it is QEMU's
			((i + 2 == ${#words[@]})) || return
			_godwit_reply "$(compgen -c qemu-system-)" "$cur"
			return
		fi
		[[ ${words[i]} == -* ]] || _godwit_takes_value "${words[i - 1]}" ||
			arguments=$((arguments + 1))
	done
	case $cur in
	--*=*)	_godwit_value "${cur%%=*}" "${cur#*=}" ;;
	-*)	_godwit_reply "$options" "$cur" ;;
	*)	if _godwit_takes_value "$prev"; then
			_godwit_value "$prev" "$cur"
		else
			_godwit_argument "$command" $arguments "$cur"
		fi ;;
	esac
}

complete -F _godwit godwit
