"""Freed memory stays where the C library can be told so."""

import subprocess
import sys

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_blocks_are_used_again_without_page_faults():
    code = (
        "import resource, sys, torch\n"
        "from flexvar.ops.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'keep' and not keep_freed_memory(): sys.exit(9)\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.set_num_threads(1)\n"
        "for _ in range(3): torch.ones(2**23) + 1\n"
        "before = faults()\n"
        "for _ in range(10): torch.ones(2**23) + 1\n"
        "print(faults() - before)\n"
    )
    counts = []
    for how in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True)
        if done.returncode == 9:
            pytest.skip("the C library is not glibc")
        counts.append(int(done.stdout))
    kept, default = counts
    # 20 blocks of 32 MB are 160,000 pages of 4 kB, unless they are huge pages.
    assert kept <= default / 2 or default < 1000
