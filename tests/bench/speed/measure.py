"""usage: measure.py RESULT.json -- COMMAND...

Runs a command and writes what it took, over all processes it started, however deep: wall and CPU seconds, peak
anonymous and peak total memory, and how busy the machine was with anything else. A page that several processes share
is counted once (Pss of /proc/PID/smaps_rollup); anonymous memory includes shared memory without a file, as in
report.json. Exits as the command does.
"""

import ctypes
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
SHARE = 20  # a sample may take one part of so many of a core
PERIODS = 0.01, 0.25  # seconds between samples, at least and at most
TICK = os.sysconf("SC_CLK_TCK")


def children():
    """{parent: [process, ...]} of the whole machine."""
    tree = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = pathlib.Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            tree.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(entry))
    return tree


def descendants(root):
    tree, found, todo = children(), [], [root]
    while todo:
        below = tree.get(todo.pop(), [])
        found += below
        todo += below
    return found


def memory(pid):
    """(anonymous, total) bytes of a process, (0, 0) when it has gone."""
    fields = {}
    try:
        for line in pathlib.Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[:2]
            fields[name] = int(value) * 1024
    except OSError:
        return 0, 0
    return fields.get("Pss_Anon:", 0) + fields.get("Pss_Shmem:", 0), fields.get("Pss:", 0)


def machine_busy():
    """CPU seconds that all cores have been busy since the machine started."""
    total = pathlib.Path("/proc/stat").read_text().split("\n")[0]
    user, nice, system, _, _, irq, soft, *_ = map(int, total.split()[1:])
    return (user + nice + system + irq + soft) / TICK


class Sampler(threading.Thread):
    """Peaks over all descendants of this process."""

    def __init__(self):
        super().__init__(daemon=True)
        self.anonymous = self.total = self.samples = self.processes = 0
        self.done = threading.Event()

    def run(self):
        while not self.done.is_set():
            started = time.thread_time()
            pids = descendants(os.getpid())
            sizes = [memory(pid) for pid in pids]
            self.anonymous = max(self.anonymous, sum(size[0] for size in sizes))
            self.total = max(self.total, sum(size[1] for size in sizes))
            self.processes = max(self.processes, len(pids))
            self.samples += 1
            self.done.wait(min(max((SHARE - 1) * (time.thread_time() - started), PERIODS[0]), PERIODS[1]))


def main():
    result, command = pathlib.Path(sys.argv[1]), sys.argv[3:]
    # Orphans become our children, so that they are seen and their CPU time is counted.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sampler, busy, own = Sampler(), machine_busy(), sum(os.times()[:2])
    started = time.monotonic()
    sampler.start()
    code = subprocess.call(command)
    wall = time.monotonic() - started
    sampler.done.set()
    sampler.join()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    times = os.times()
    cpu, sampling = times.children_user + times.children_system, times.user + times.system - own
    measured = {
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "foreign_cpu_seconds": max(0.0, machine_busy() - busy - cpu - sampling),
        "sampling_cpu_seconds": sampling,
        "peak_anonymous_bytes": sampler.anonymous,
        "peak_total_bytes": sampler.total,
        "most_processes": sampler.processes,
        "samples": sampler.samples,
        "exit": code,
    }
    result.write_text(json.dumps(measured) + "\n")
    sys.exit(code if code >= 0 else 128 - code)


main()
