"""The random states that a run depends on."""

import random

import numpy as np
import torch

from tests.training.programs import copies, fit, vae
from tests.training.test_resume import Until


def test_the_global_states_are_put_back(tmp_path):
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), str(random.getstate())

    module = vae()
    before = states()
    for resume in (False, True):
        fit(
            module, copies(), epochs=1 + resume, transform=Until(), progress=False,
            checkpoint=tmp_path / "run", resume=resume, validation=copies(50),
        )  # fmt: skip
        assert states() == before
