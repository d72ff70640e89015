#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# check-symbols.sh godwit-agent.so: does it load into the C libraries of older
# distributions than the one it was built on, and export nothing it need not?
set -eu
command -v objdump >/dev/null || { echo "SKIP: no objdump"; exit 77; }

newest=$(objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
oldest=$(printf '%s\nGLIBC_2.17\n' "$newest" | sort -V | tail -n 1)
if [ "$oldest" != GLIBC_2.17 ]; then
	echo "needs $newest; nothing above GLIBC_2.17 may be used:"
	objdump -T "$1" | grep -F "$newest"
	exit 1
fi
exports=$(objdump -T "$1" | awk '/ g / && !/\*UND\*/ { print $NF }' |
	  sort | tr '\n' ' ')
if [ "$exports" != "qemu_plugin_install qemu_plugin_version " ]; then
	echo "exports: $exports"
	exit 1
fi
libs=$(objdump -p "$1" | awk '/NEEDED/ { print $2 }' | tr '\n' ' ')
case $libs in
"libc.so.6 "|"libpthread.so.0 libc.so.6 ") ;;
*) echo "needs $libs"; exit 1 ;;
esac
echo "newest: $newest; exports: $exports; libraries: $libs"
