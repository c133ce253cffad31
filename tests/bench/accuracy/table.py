"""usage: table.py FOLDER   the scores in FOLDER/scores.jsonl as a Markdown table, with the time of our runs"""

import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
if scores:
    print(f"original: perplexity {scores[0]['reference_perplexity']:.4f}, {scores[0]['tokens']} tokens\n")
print("| checkpoint | perplexity | KL | top-1 | MB | s |\n|---|---|---|---|---|---|")
for s in sorted(scores, key=lambda s: (s["name"].split("/")[1], s["name"])):
    report = folder / (s["name"] + ".run") / "report.json"
    seconds = f"{json.loads(report.read_text())['wall_seconds']:.0f}" if report.exists() else ""
    print(
        f"| {s['name']} | {s['perplexity']:.4f} | {s['kl_divergence']:.4f} | {s['top1_agreement']:.2%} "
        f"| {s['bytes'] / 1e6:.1f} | {seconds} |"
    )
