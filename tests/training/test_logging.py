"""The run log: the cost of its import."""

import subprocess
import sys


def test_it_does_not_import_torch_nor_keep_others_from_it():
    code = "import sys, shapjax.training.logging; assert 'torch' not in sys.modules; import torch; torch.ones(1)"
    subprocess.run([sys.executable, "-c", code], check=True)
