#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The man page and the completion have the commands, options, parameters and
# defaults that the program has, and no others; the example of libgodwit(3) is
# examples/migrate.c; links lead somewhere; README stays short.
# usage: docs.sh TOP GODWIT
set -u
export LC_ALL=C.UTF-8
top=$1 godwit=$2
man=$top/docs/man/godwit.1.scd
completion=$top/docs/completion/godwit.bash
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
bad=0

complain()
{
	echo "$*"
	bad=1
}

# differ A B WHAT-A WHAT-B SUBJECT: complain about lines that only one has.
differ()
{
	sort -u "$1" >"$t/a"
	sort -u "$2" >"$t/b"
	for word in $(comm -23 "$t/a" "$t/b"); do
		complain "$5: $word is in $3 and not in $4"
	done
	for word in $(comm -13 "$t/a" "$t/b"); do
		complain "$5: $word is in $4 and not in $3"
	done
}

# long_options FILE: --words, without those of a program behind --.
long_options()
{
	grep -o -e '--[a-z][a-z-]*' "$1"
}

# section TITLE: the part of the man page below a heading, up to the next one
# of its kind.
section()
{
	awk -v title="$1" '
		/^##? / { on = index($0 " ", title " ") == 1; next }
		on' "$man"
}

"$godwit" help >"$t/help" || complain "godwit help fails"
sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p' "$t/help" >"$t/commands"
[ -s "$t/commands" ] || complain "godwit help lists no commands"

# --- commands ---------------------------------------------------------------

sed -n 's/^## godwit \([a-z]*\).*/\1/p' "$man" >"$t/of-man"
differ "$t/commands" "$t/of-man" "godwit help" "the man page" commands
sed -n 's/^\*godwit \([a-z]*\)\*.*/\1/p' "$man" >"$t/of-man"
differ "$t/commands" "$t/of-man" "godwit help" "its synopsis" commands

# offer LINE: what the completion offers, a word per line.
offer()
{
	# shellcheck disable=SC2016 # bash expands it
	PATH=$t/bin:$PATH bash -c '. "$1"
		COMP_LINE=$2 COMP_POINT=${#2} COMPREPLY=()
		_godwit 2>&1
		printf "%s\n" "${COMPREPLY[@]}"' - "$completion" "$1" |
		sed '/^$/d'
}

shell=
if command -v bash >/dev/null; then
	shell=1
	mkdir "$t/bin"
	printf '#!/bin/sh\nexec "%s" "$@"\n' "$godwit" >"$t/bin/godwit"
	chmod 755 "$t/bin/godwit"
	offer 'godwit ' >"$t/offered"
	differ "$t/commands" "$t/offered" "godwit help" "the completion" \
	       commands
else
	echo "no bash: the completion is only looked at"
fi

# --- options ----------------------------------------------------------------

section '# PARAMETERS' >"$t/parameters"
sed -n 's/^\*\(--[a-z-]*\).*/\1/p' "$t/parameters" >"$t/man-parameters"
: >"$t/all"
: >"$t/parameters-all"
: >"$t/defaults"
while read -r command; do
	"$godwit" help "$command" >"$t/help" ||
		complain "godwit help $command fails"
	sed '1,/^Parameters/d' "$t/help" | long_options - |
		sort -u >"$t/parameters-of"
	# lines of options; an example in the text is none
	sed '/^Parameters/,$d' "$t/help" |
		sed -n 's/^  \(-[a-zA-Z], \)*\(--[a-z-]*\).*/\2/p' |
		sort -u >"$t/options"
	section "## godwit $command" >"$t/section"
	sed -n 's/^\(\*-[a-z]\*, \)*\*\(--[a-z-]*\).*/\2/p' "$t/section" \
		>"$t/man-options"
	differ "$t/options" "$t/man-options" "godwit help $command" \
	       "the man page" "$command"
	cat "$t/parameters-of" >>"$t/parameters-all"
	"$godwit" help "$command" | sed -n '/^Parameters/,$p' |
		sed -n 's/^  \(--[a-z-]*\) .*(\([^()]*\))$/\1 \2/p' \
			>"$t/defaults-of"
	cat "$t/defaults-of" >>"$t/defaults"
	if [ -s "$t/defaults-of" ] && [ "$shell" ]; then
		sed 's/^--//; s/ .*//' "$t/defaults-of" >"$t/names"
		offer "godwit $command A B --set " | sed 's/=$//' \
			>"$t/offered"
		differ "$t/names" "$t/offered" "godwit help $command" \
		       "the completion" "--set of $command"
	fi
	cat "$t/options" "$t/parameters-of" >>"$t/all"
	# what is on or off also has --no-NAME
	sed -n 's/^--\(.*\) o[nf]*$/--no-\1/p' "$t/defaults-of" >"$t/negations"
	cat "$t/negations" >>"$t/all"
	[ "$shell" ] || continue
	offer "godwit $command --no-" >"$t/offered"
	differ "$t/negations" "$t/offered" "godwit help $command" \
	       "the completion" "--no- of $command"
	cat "$t/options" "$t/parameters-of" >"$t/both"
	offer "godwit $command --" >"$t/offered"
	differ "$t/both" "$t/offered" "godwit help $command" \
	       "the completion" "$command"
done <"$t/commands"

# Each command takes some of the parameters; the man page has them all.
differ "$t/parameters-all" "$t/man-parameters" "the help of the commands" \
       "PARAMETERS of the man page" parameters

# Whatever else looks like an option in the two files.
printf -- '--help\n--version\n--no-\n' >>"$t/all"
sort -u "$t/all" >"$t/known"
for file in "$man" "$completion"; do
	for option in $(long_options "$file" | sort -u | comm -23 - "$t/known")
	do
		complain "${file#"$top"/}: no command has $option"
	done
done

# "  --name   what it means (default)"
[ -s "$t/defaults" ] || complain "no command's help has defaults"
while read -r option default; do
	grep -F -e "*$option*" "$t/parameters" |
		grep -q -F -e "(default $default;" ||
		complain "the man page does not say that $option is $default" \
			 "by default"
done <"$t/defaults"

# --- the example ------------------------------------------------------------

sed -n '/^#include/,$p' "$top/examples/migrate.c" >"$t/example"
# shellcheck disable=SC2016 # three backquotes
sed -n '/^```$/,/^```$/p' "$top/docs/man/libgodwit.3.scd" | sed '/^```$/d' |
	sed 's/\\\\/\\/g' >"$t/of-man"
diff "$t/example" "$t/of-man" ||
	complain "libgodwit.3.scd does not have the text of examples/migrate.c"

# --- links and references ---------------------------------------------------

find "$top/README.md" "$top/CHANGELOG.md" "$top/docs" -name '*.md' \
	>"$t/pages"
while read -r page; do
	# code is no text: fences and `...`
	# shellcheck disable=SC2016
	awk '/^ *```/ { code = !code; next } !code' "$page" |
		sed 's/`[^`]*`//g' | grep -o '](\([^)]*\))' |
		sed 's/^](//; s/)$//; s/#.*//; s/ .*//' >"$t/links"
	while read -r link; do
		case $link in
		'' | http:* | https:* | mailto:*) ;;
		/*) complain "${page#"$top"/}: $link is not relative" ;;
		*) [ -e "${page%/*}/$link" ] ||
			complain "${page#"$top"/}: $link does not exist" ;;
		esac
	done <"$t/links"
done <"$t/pages"

# A page that a comment sends its reader to.
for folder in agent cli fuzz include lib scripts tests; do
	grep -r -o -h -E -e 'docs/[a-z0-9/._-]+\.(md|scd)' "$top/$folder" \
		--include='*.[ch]' --include='*.py' --include='*.sh'
done | sort -u >"$t/named"
while read -r page; do
	[ -e "$top/$page" ] || complain "the code names $page, which is not there"
done <"$t/named"

# --- README -----------------------------------------------------------------

awk 'length($0) > 110 { print "README.md:" NR ": " length($0) " columns"
			bad = 1 } END { exit bad }' "$top/README.md" || bad=1
lines=$(wc -l <"$top/README.md")
[ "$lines" -le 90 ] || complain "README.md has $lines lines, 90 are allowed"

exit $bad
