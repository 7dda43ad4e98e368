"""Print the numbers of test_statistics.py's PROFILES as rliable computes them.

python3.11 -m venv R && R/bin/pip install rliable==1.2.0 "pandas<3"
R/bin/python tests/unit_runtime/evaluation/rliable_numbers.py

rliable's own packages (arch below 8, seaborn) are not among the tests' requirements, so what it
gave stands in the test.
"""

import json

import numpy as np
from rliable import library, metrics  # pyright: ignore[reportMissingImports]

THRESHOLDS = np.array([0.5, 1, 2, 4, 8])
RESAMPLES = 2000


def numbers(runs: int, tasks: int) -> dict[str, list[float]]:
    x = np.random.default_rng([runs, tasks]).gamma(2.0, 1.5, (runs, tasks))
    y = np.round(np.random.default_rng([runs, tasks, 1]).gamma(2.0, 1.5, (runs + 1, tasks)))
    profile, ends = library.create_performance_profile({"x": x}, THRESHOLDS, reps=RESAMPLES)
    better, interval = library.get_interval_estimates(
        {"x,y": (np.round(x), y)},
        metrics.probability_of_improvement,
        reps=RESAMPLES,
        random_state=np.random.RandomState(0),
    )
    return {
        "profile": profile["x"].tolist(),
        "low": ends["x"][0].tolist(),
        "high": ends["x"][1].tolist(),
        "improvement": [*np.ravel(better["x,y"]).tolist(), *np.ravel(interval["x,y"]).tolist()],
    }


if __name__ == "__main__":
    print(json.dumps({str(shape): numbers(*shape) for shape in ((5, 3), (4, 1), (10, 7), (3, 2))}))
