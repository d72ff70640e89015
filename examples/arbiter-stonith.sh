#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# arbiter-stonith.sh - an --arbiter for godwit standby: before the VM runs here,
# the primary's host is powered off by its management controller (IPMI), and
# that it is off is looked at. Then it does not matter whether the primary
# could stop its VM.
#
#	godwit standby tcp::5555 web \
#		--arbiter 'arbiter-stonith.sh a-bmc.example.net admin /etc/godwit/bmc'
#
#	HOST	the controller of the primary's host (not the host itself)
#	USER	who may switch its power
#	FILE	a file with the password, readable by godwit's user alone
#
# For the standby only. Two sides that may power each other off do so: give the
# primary --fence (the default) or, if its host is never to stop because of a
# dead standby, --no-fence, which is safe with this script and not without it.
#
# godwit sets GODWIT_ROLE and GODWIT_VM, and kills an arbiter that takes longer
# than a minute.
#
# Exit status: 0 the host is off: take over. 1 it is not, or nobody knows: do
# not. A controller that has lost its power with its host does not answer
# either; then a person decides ('godwit failover' after a look).
set -u

if [ $# -ne 3 ]; then
	echo "usage: ${0##*/} HOST USER FILE" >&2
	exit 2
fi
host=$1 user=$2 file=$3

if [ "${GODWIT_ROLE:-}" != standby ]; then
	echo "arbiter: this is for godwit standby" >&2
	exit 1
fi

power()
{
	timeout 10 ipmitool -I lanplus -H "$host" -U "$user" -f "$file" \
		chassis power "$1"
}

power off >&2 || echo "arbiter: $host did not take the command" >&2

# It is off when it says so, not when it was told to be.
tries=0
while [ "$tries" -lt 10 ]; do
	case $(power status) in
	*"Power is off"*)
		echo "arbiter: $host is off, ${GODWIT_VM:-the VM} may run here" >&2
		exit 0 ;;
	esac
	tries=$((tries + 1))
	sleep 1
done
echo "arbiter: $host is not known to be off" >&2
exit 1
