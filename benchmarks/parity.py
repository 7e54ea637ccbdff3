"""Does the fast path learn the same? The demo in float32 and in bf16, several seeds each.

    python benchmarks/parity.py --json parity.json
    python benchmarks/parity.py --niter 1 --niter_decay 2     # shorter; any flag of train.py

Trains `train.py --demo` with --amp off and with --amp bf16 for each seed, in turns, translates the
held-out pairs, and prints the shares of right hair colours and the cycle losses as mean and
standard deviation over the seeds. Trainings are kept in --work; finished ones are not repeated.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.errors import one_line_errors


def run(work: Path, script: str, *flags: object) -> str:
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    return subprocess.run(command, cwd=work, check=True, capture_output=True, text=True).stdout


def train_and_judge(work: Path, amp: str, seed: int, flags: list[str]) -> dict:
    """One demo run: share of right hair colours by domain, and cycle losses by epoch."""
    name = f"demo-{amp}-{seed}"
    if not (work / "model_ckpt" / name / "latest.pth").exists():
        run(work, "train.py", "--demo", "--amp", amp, "--seed", seed, "--name", name, *flags)
    judged = run(work, "test.py", "--demo", "--name", name, "--output", f"test_image/{name}")
    shares = re.findall(r"of \d+ (\w+) outputs agrees with the true pair in ([\d.]+)%", judged)
    lines = (work / "save_image" / name / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["losses"] for line in lines]
    return {
        "hair": {domain: float(share) / 100 for domain, share in shares},
        "cycle": [(each["cycle_A"] + each["cycle_B"]) / 2 for each in losses],
    }


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Compare float32 and bf16 training on the demo.")
    parser.add_argument("--work", type=Path, default=Path("out/parity"), help="where they run")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options, train_flags = parser.parse_known_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict]] = {"off": [], "bf16": []}
    for seed in range(options.seeds):
        for amp, runs in results.items():
            runs.append(train_and_judge(options.work, amp, seed, train_flags))
            print(amp, seed, json.dumps(runs[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")

    def spread(values: list[float], form: str) -> str:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):{form}} ± {deviation:{form}}"

    print("| demo, held-out | float32 | bf16 |\n| --- | --- | --- |")
    for domain in ("anime", "person"):
        cells = [spread([r["hair"][domain] for r in runs], ".1%") for runs in results.values()]
        print(f"| right hair colour, {domain} outputs | {cells[0]} | {cells[1]} |")
    for epoch in range(len(results["off"][0]["cycle"])):
        cells = [spread([r["cycle"][epoch] for r in runs], ".3f") for runs in results.values()]
        print(f"| cycle loss, epoch {epoch + 1} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
