"""usage: table.py FOLDER RESULTS.md --samples N --model FORM   medians of what run.sh measured, between a file's <!-- speed --> lines"""

import argparse
import json
import os
import pathlib
import re
import statistics

MARK = "<!-- speed -->"
MIB = 1 << 20


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def roofline_share(folder):
    """The least time the machine's peaks allow, as a share of our first run's; "" where they were never measured."""
    report = folder.with_name(folder.name + ".run") / "report.json"
    share = json.loads(report.read_text()).get("share_of_roofline") if report.exists() else None
    return f"{share:.0%}" if share is not None else ""


def runs(folder):
    """{job: {tool: [run, ...]}} of the runs that went well"""
    jobs = {}
    for path in sorted(folder.glob("*/*.json")):
        run = json.loads(path.read_text())
        if run["exit"] == 0:
            jobs.setdefault(path.parent.name, {}).setdefault(path.name.rsplit(".", 2)[0], []).append(run)
    return jobs


def rows(folder):
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    quality = {score["name"]: score for score in scores}
    for job, tools in runs(folder).items():
        medians = {
            tool: {key: statistics.median(run[key] for run in taken) for key in taken[0]}
            for tool, taken in tools.items()
        }
        ours = medians.get("quantpipe")
        for tool in sorted(tools, key=lambda tool: (tool != "quantpipe", tool)):
            m, score = medians[tool], quality.get(f"{job}/{tool}.1")
            busy = max(run["foreign_cpu_seconds"] / run["wall_seconds"] / os.cpu_count() for run in tools[tool])
            yield [
                job,
                tool.replace(".", " "),
                f"{m['wall_seconds']:.2f}",
                f"{m['cpu_seconds']:.1f}",
                f"{m['peak_anonymous_bytes'] / MIB:.0f}",
                f"{m['peak_total_bytes'] / MIB:.0f}",
                f"{score['perplexity']:.4f}" if score else "",
                f"{score['kl_divergence']:.4f}" if score else "",
                f"{m['wall_seconds'] / ours['wall_seconds']:.1f}" if ours and m is not ours else "",
                f"{m['peak_anonymous_bytes'] / ours['peak_anonymous_bytes']:.1f}" if ours and m is not ours else "",
                roofline_share(folder / job / f"{tool}.1") if tool == "quantpipe" else "",
                str(len(tools[tool])),
                f"{busy:.0%}",
            ]


MODELS = {"gguf": "SmolLM2-135M-Instruct from its 4-bit GGUF", "bf16": "SmolLM2-135M-Instruct as a BF16 folder"}


def table(folder, samples, model):
    head = ["job", "tool", "wall s", "CPU s", "anonymous MiB", "total MiB", "perplexity", "KL", "x time", "x memory"]
    head += ["of the roofline", "runs", "others' CPU"]
    lines = [
        f"{processor()}, {os.cpu_count()} cores; {MODELS[model]}; {samples} calibration windows of 512 tokens; medians.",
        "x: the tool's over quantpipe's. Others' CPU: the largest share of the machine that something else took in a run.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
    ]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows(folder)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--model", choices=MODELS, required=True)
    args = parser.parse_args()
    text = args.results.read_text() if args.results.exists() else ""
    if text.count(MARK) != 2:
        text += f"\n## Speed\n\n{MARK}\n{MARK}\n"
    new = f"{MARK}\n{table(args.folder, args.samples, args.model)}\n{MARK}"
    args.results.write_text(re.sub(f"{MARK}.*{MARK}", lambda _: new, text, flags=re.DOTALL))
    print(new)


main()
