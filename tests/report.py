"""Adds up what the long tier wrote down: REPORT.jsonl SIMULATION.log"""

import json
import re
import sys
from pathlib import Path


def main(report: str, simulation: str) -> None:
    lines = [json.loads(line) for line in Path(report).read_text().splitlines()]
    scenarios = [line for line in lines if "scenario" in line]
    print(f"{'scenario':44} {'seed':>10} {'faults':>7} {'histories':>10} {'arrivals':>9} {'violations':>11}")
    for s in scenarios:
        print(
            f"{s['scenario']:44} {s['seed']:>10} {s['faults']:>7} {s['histories']:>10} {s['arrivals']:>9}"
            f" {s['violations']:>11}"
        )
    total = {key: sum(s[key] for s in scenarios) for key in ("faults", "histories", "arrivals", "violations")}
    print(
        f"{len(scenarios)} scenarios, {total['faults']} faults injected, {total['histories']} histories checked, "
        f"{total['arrivals']} arrivals, {total['violations']} violations"
    )
    log = Path(simulation)
    said = re.findall(r"^simulation: .*$", log.read_text(), re.M) if log.exists() else []
    print(said[-1] if said else "simulation: did not finish")
    planted = [line for line in lines if "planted" in line]
    if planted:
        print(f"planted bugs caught: {planted[-1]['caught']} of {planted[-1]['planted']}")
    else:
        print("planted bugs: did not finish")


main(*sys.argv[1:])
