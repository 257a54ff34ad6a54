"""How often does the training watch report a plateau or a collapse, and is it right?

    python benchmarks/health.py

Simulated scores of runs with 20 or 40 evaluations and noise of 3%, 8% and 15%: falling by 50%, 30% or 20% in each
half of the run; flat after 40% or 25% of it; rising by 30% after half of it. The table has the share of runs with
each warning before the end. In the columns of the collapse the diversity is 10% of that of real images: falling scores
show that such a run still improves.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from common import machine, table, write_json
from ganvas.config import TrainConfig
from ganvas.records import Score
from ganvas.training.health import Watch

SCORES = {
    "falling by 50%": lambda time: time**-1.0,
    "falling by 30%": lambda time: time**-0.515,
    "falling by 20%": lambda time: time**-0.322,
    "flat after 40%": lambda time: 1 / np.minimum(time, 0.4),
    "flat after 25%": lambda time: 1 / np.minimum(time, 0.25),
    "rising after 50%": lambda time: np.where(time < 0.5, 0.5 / time, 1 + 0.6 * (time - 0.5)),
}


def warnings(scores: np.ndarray, diversity: float) -> set[str]:
    """Names of the warnings before the end of a run with these scores."""
    watch, found = Watch(TrainConfig(loss="relativistic")), set()
    for i, score in enumerate(scores[:-1]):
        record = Score(images=10_000 * (i + 1), score=float(score), diversity=diversity, change=0.05)
        found |= {event.name for event in watch.examine(record, (i + 1) / len(scores))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="of each row")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rng, rows = np.random.default_rng(0), []
    for name, usual in SCORES.items():
        for num in (20, 40):
            for noise in (0.03, 0.08, 0.15):
                time = np.arange(1, num + 1) / num
                runs = usual(time) * np.exp(noise * rng.standard_normal((asked.runs, num)))
                row = {"score": name, "evaluations": num, "noise": noise}
                for warning, diversity in (("plateau", 1.0), ("collapse", 0.1)):
                    row[warning] = sum(warning in warnings(scores, diversity) for scores in runs) / asked.runs
                rows.append(row)
    table(f"Share of {asked.runs} simulated runs with a warning", rows)
    if asked.json:
        write_json(asked.json, {"machine": machine("numpy"), "runs": asked.runs, "rows": rows})


if __name__ == "__main__":
    main()
