# SPDX-License-Identifier: BSD-3-Clause
"""The arbiters in examples/, against an etcdctl and an ipmitool that do what
theirs would say."""
import os
import subprocess

import pytest

from harness import TOP

# A transaction on one key: create() = 0 or read, as etcdctl 3 prints it.
ETCDCTL = r"""#!/bin/sh
[ ! -e "$STATE/dead" ] || exit 1
for last; do :; done
case $* in
*txn)	text=$(cat)
	key=$(printf '%s\n' "$text" | sed -n 's/^create("\(.*\)") = "0"$/\1/p')
	value=$(printf '%s\n' "$text" | sed -n 's/^put [^ ]* //p')
	f=$STATE/$(printf %s "$key" | tr / _)
	if [ -e "$f" ]; then echo FAILURE; else
		printf %s "$value" >"$f"; echo SUCCESS; echo; echo OK; fi ;;
*get*)	while [ "$1" != get ]; do shift; done
	cat "$STATE/$(printf %s "$2" | tr / _)"; echo ;;
*)	exit 2 ;;
esac
"""
IPMITOOL = r"""#!/bin/sh
for last; do :; done
case $last in
off)	[ -e "$STATE/stuck" ] || : >"$STATE/off" ;;
status)	[ ! -e "$STATE/dead" ] || exit 1
	[ -e "$STATE/off" ] && echo 'Chassis Power is off' ||
		echo 'Chassis Power is on' ;;
esac
"""


@pytest.fixture
def ask(tmp_path):
    for name, text in ("etcdctl", ETCDCTL), ("ipmitool", IPMITOOL), (
            "sleep", "#!/bin/sh\n"):
        tool = tmp_path / name
        tool.write_text(text)
        tool.chmod(0o755)

    def run(script, role, *args):
        return subprocess.run(
            [os.path.join(TOP, "examples", script), *args], env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "STATE": str(tmp_path), "GODWIT_ROLE": role,
                "GODWIT_VM": "web"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60).returncode
    run.state = tmp_path
    return run


@pytest.mark.parametrize("first, second", [("primary", "standby"),
                                           ("standby", "primary")])
def test_etcd_gives_the_vm_to_the_first_who_asks(ask, first, second):
    for _ in range(3):
        assert ask("arbiter-etcd.sh", first, "web/1") == 0
        assert ask("arbiter-etcd.sh", second, "web/1") == 1
    assert ask("arbiter-etcd.sh", second, "web/2") == 0


def test_who_does_not_reach_etcd_does_not_run(ask):
    (ask.state / "dead").touch()
    for role in "primary", "standby":
        assert ask("arbiter-etcd.sh", role, "web/1") == 1
    assert ask("arbiter-etcd.sh", "standby") == 2


def test_stonith_believes_what_it_sees(ask):
    args = "arbiter-stonith.sh", "standby", "bmc", "admin", "/dev/null"
    assert ask(*args) == 0
    (ask.state / "off").unlink()
    (ask.state / "stuck").touch()
    assert ask(*args) == 1
    (ask.state / "stuck").unlink()
    (ask.state / "dead").touch()
    assert ask(*args) == 1


def test_stonith_is_for_the_standby(ask):
    assert ask("arbiter-stonith.sh", "primary", "bmc", "admin", "/x") == 1
    assert not (ask.state / "off").exists()
    assert ask("arbiter-stonith.sh", "standby", "bmc") == 2
