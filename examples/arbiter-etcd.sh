#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# arbiter-etcd.sh - an --arbiter for godwit protect and godwit standby: of two
# that have lost each other, the one that writes a key in etcd first may run
# the VM. Who does not reach a majority of etcd does not get the key.
#
#	godwit standby tcp::5555 web --arbiter 'arbiter-etcd.sh web/1'
#	godwit protect web tcp:b:5555 --arbiter 'arbiter-etcd.sh web/1'
#
# The argument names this protection and must be the same on both sides, and
# another one for each new protection of the VM: the key stays, and it says who
# won. (When the winner is to be protected anew: delete the key, or take web/2.)
#
# godwit sets	GODWIT_ROLE		primary or standby
# You set	ETCDCTL_ENDPOINTS	and what else etcdctl(1) reads
#
# Exit status: 0 this side may run the VM, 1 it may not (the other side has the
# key, or etcd cannot be asked: who does not know must not run it).
set -u

if [ $# -ne 1 ]; then
	echo "usage: ${0##*/} PROTECTION" >&2
	exit 2
fi
key=/godwit/$1
me=${GODWIT_ROLE:?is set by godwit}
export ETCDCTL_API=3

# One transaction: if the key was never written, it is ours; otherwise read it.
# Asked again after our own success the answer is the same.
answer=$(printf 'create("%s") = "0"\n\nput %s %s\n\nget %s --print-value-only\n\n' \
		"$key" "$key" "$me" "$key" |
	timeout 5 etcdctl --dial-timeout=2s --command-timeout=4s txn) || {
	echo "arbiter: etcd does not answer: not us" >&2
	exit 1
}

case $answer in
SUCCESS*)
	echo "arbiter: $me has got $key" >&2
	exit 0 ;;
esac
owner=$(timeout 5 etcdctl --dial-timeout=2s --command-timeout=4s \
	get "$key" --print-value-only) || exit 1
echo "arbiter: $key belongs to the ${owner:-nobody}" >&2
[ "$owner" = "$me" ]
