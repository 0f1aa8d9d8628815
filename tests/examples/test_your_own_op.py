"""The example of an op of one's own says what it promises, in under 60 lines."""

import re
import subprocess
import sys

from tests.examples.conftest import EXAMPLES


def test_it_is_checked_proved_and_trained():
    script = EXAMPLES / "your_own_op.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) < 60
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={"PYTHONPATH": str(EXAMPLES.parent), "PATH": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "log_cosh: the gradient is correct" in done.stdout
    assert "log_cosh: 6 derivatives in 1 claim: exact" in done.stdout
    fits = re.findall(r"(\w+) +finds y = (\S+) x \+ ([\d.]+)", done.stdout)
    found = {name: (float(w), float(b)) for name, w, b in fits}
    assert abs(found["log_cosh"][0] - 3) < 0.05
    assert abs(found["log_cosh"][1] - 1) < 0.2
    assert found["mse"][1] > 2  # a tenth of the points are 30 too high
