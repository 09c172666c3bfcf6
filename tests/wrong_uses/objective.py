"""The objective, its terms and its regularizers."""

import pyro_corex as pc

from . import Use, refused

USES: list[Use] = [
    refused(
        "CorExELBO", "no particles", lambda: pc.CorExELBO(num_particles=0), "num_particles", "0"
    ),
]
