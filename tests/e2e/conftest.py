# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the end-to-end tests; see harness.py."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402


def need(*paths):
    for path in (harness.GODWIT, os.path.join(harness.GUEST, "initrd.gz"),
                 *paths):
        if not os.path.exists(path):
            pytest.skip(f"{path} is missing: run the tests by 'make check'")


@pytest.fixture
def env(tmp_path):
    """A fresh runtime directory; what was started ends with the test."""
    need()
    e = harness.Env(tmp_path)
    yield e
    e.close()


@pytest.fixture(scope="module")
def module_env(tmp_path_factory):
    """The same for all tests of a file, which share VMs of QEMU 10.0."""
    need(harness.qemu_path("10.0") or "QEMU 10.0")
    e = harness.Env(tmp_path_factory.mktemp("env"))
    yield e
    e.close()


@pytest.fixture
def qemu(request):
    """The version asked for by parametrize(..., indirect=True)."""
    version = getattr(request, "param", "10.0")
    if not harness.qemu_path(version):
        pytest.skip(f"QEMU {version} could not be unpacked on this machine "
                    f"(scripts/get-qemu {version} says why)")
    return version
