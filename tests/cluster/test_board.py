"""What the board between workers and driver costs."""

import subprocess
import sys


def test_a_board_does_without_torch():
    """It is a process of its own on the driver's machine; torch would take it seconds to start, and 200 MB."""
    code = "import sys, distrib.cluster.board; assert 'ray' in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
