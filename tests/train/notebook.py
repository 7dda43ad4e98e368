"""Run a notebook in a real kernel and give its outputs as JSON; by an interpreter that has Jupyter.

Its cells learn nothing: they move a run's bar, and score a policy that acts at random.
"""

import json
import sys

import nbformat
from nbclient import NotebookClient

BAR = """
import time
from agentzoo.train.progress import ProgressBar
with ProgressBar(1_000) as bar:
    bar.note("a remark <b>")
    for step in (300, 600):
        time.sleep(0.6)
        bar.update(step, phase="learning")
"""
SCORE = """
import gymnasium, numpy as np
from agentzoo.runtime import evaluate_random

class Grey(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    render_mode = "rgb_array"
    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.5, self.steps == 4, False, {}
    def render(self):
        return np.full((32, 32, 3), 60 * self.steps, np.uint8)

evaluate_random(Grey(), episodes=3, video="film.mp4")
"""

if __name__ == "__main__":
    cells = [nbformat.v4.new_code_cell(text) for text in (BAR, SCORE)]
    book = nbformat.v4.new_notebook(cells=cells)
    place = {"metadata": {"path": sys.argv[1]}}
    NotebookClient(book, timeout=120, kernel_name="python3", resources=place).execute()
    print(json.dumps([cell.outputs for cell in book.cells]))
