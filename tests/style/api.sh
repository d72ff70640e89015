#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# godwit.h stands alone, as C99 and as C++, and declares exactly what the
# library exports. usage: api.sh TOP LIBRARY
set -eu
top=$1 lib=$2
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
echo '#include <godwit.h>' >"$t/a.c"
cp "$t/a.c" "$t/a.cpp"
${CC:-cc} -std=c99 -Wall -Wextra -Werror -I"$top/include" -fsyntax-only "$t/a.c"
if command -v c++ >/dev/null; then
	c++ -std=c++11 -Wall -Wextra -Werror -I"$top/include" -fsyntax-only \
		"$t/a.cpp"
fi
tr '\n' ' ' <"$top/include/godwit.h" | tr ';' '\n' |
	sed -n 's/.*GODWIT_API[^(]*[ *]\(godwit_[a-z_]*\)(.*/\1/p' |
	sort >"$t/declared"
nm -D --defined-only "$lib" | sed -n 's/.* T \(.*\)/\1/p' |
	sed 's/@.*//' | sort >"$t/exported"
diff "$t/declared" "$t/exported"
test -s "$t/declared"
