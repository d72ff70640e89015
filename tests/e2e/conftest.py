# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the end-to-end tests; see harness.py."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402


@pytest.fixture
def env(tmp_path):
    """A fresh runtime directory; what was started ends with the test."""
    for path in (harness.GODWIT, os.path.join(harness.GUEST, "initrd.gz")):
        if not os.path.exists(path):
            pytest.skip(f"{path} is missing: run the tests by 'make check'")
    e = harness.Env(tmp_path)
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
