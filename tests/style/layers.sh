#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A folder of lib/ includes headers only from itself and from folders above it
# in data-flow order (docs/internals/data-flow.md). usage: layers.sh TOP
set -eu
cd "$1"
order="base ram track hint page wire chan image vm source dest colo control"
bad=0
above=
for folder in $order; do
	above="$above $folder"
	[ -d "lib/$folder" ] || continue
	for f in $(find "lib/$folder" -name '*.[ch]'); do
		for inc in $(sed -n 's/^#include "\(.*\)"$/\1/p' "$f"); do
			case $inc in
			godwit.h) continue ;;
			agent/protocol.h) [ "$folder" = vm ] && continue ;;
			guest-agent/protocol.h)
				case $folder in hint | vm) continue ;; esac ;;
			esac
			case " $above " in
			*" ${inc%%/*} "*) ;;
			*) echo "$f includes $inc, which is not above lib/$folder"
			   bad=1 ;;
			esac
		done
	done
done
exit $bad
