"""What people look at."""

from pyro_corex.report.figures import image_grid, latent_bars

__all__ = ["image_grid", "latent_bars"]
