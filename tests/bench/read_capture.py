# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a capture's only frame as `policies CAPTURE` does, and prints as JSON what that took.

Usage: python tests/bench/read_capture.py CAPTURE, in a process of its own: the clock is that
of its CPU time since its start.
"""

import json
import re
import sys
import time
from pathlib import Path

from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.capture import Capture
from dynstack_probe.model.shapes import count_shapes
from dynstack_probe.policy import BUILT_IN

imported = time.process_time()
[frame] = Capture(Path(sys.argv[1]))
read = time.process_time()
shapes = count_shapes(frame.stacks, [policy.asleep_seconds for policy in BUILT_IN.values()])
results = [estimate(policy, shapes, frame.host) for policy in BUILT_IN.values()]
peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
assert peak is not None
print(
    json.dumps(
        {
            "stacks": results[0].stacks,
            "shapes": len(shapes),
            "start": imported,
            "read": read - imported,
            "estimate": time.process_time() - read,
            "total": time.process_time(),
            "rss_kib": int(peak[1]),
        }
    )
)
