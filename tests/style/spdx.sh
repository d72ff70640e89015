#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Every source file says its licence. usage: spdx.sh TOP
set -eu
cd "$1"
bad=0
for f in $(find agent guest-agent cli lib include fuzz bench scripts tests examples docs \
	Makefile meson.build meson_options.txt .ci \
	-type f ! -path '*/corpus/*' ! -path '*/golden/*.devstream' \
	! -path '*/golden/multifd-*' \
	! -name '*.pyc' ! -name '*.md' ! -name '.shellcheckrc' 2>/dev/null); do
	head -5 "$f" | grep -q 'SPDX-License-Identifier: BSD-3-Clause' || {
		echo "$f has no SPDX line"
		bad=1
	}
done
exit $bad
