"""Whom embedded servers run as."""

import os
import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import ctypes, sys
from pathlib import Path
from tmi.embedded.account import choose_account
libc, told = ctypes.CDLL(None), ctypes.c_int(0)
libc.prctl(1, int(sys.argv[1]))
account = choose_account(Path(sys.argv[2]))
account.can_search(Path("/"))
libc.prctl(2, ctypes.byref(told))
print(account.is_other, told.value)
"""


def test_acting_as_another_user_keeps_the_signal_at_the_parents_death(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(int(signal.SIGTERM)), str(tmp_path / "none")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    # Only root changes to another user.
    assert [str(os.getuid() == 0), str(int(signal.SIGTERM))] == told.stdout.split()
