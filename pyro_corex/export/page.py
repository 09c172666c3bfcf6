"""The report: one HTML page that needs nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_corex.batches import Data, Transform
from pyro_corex.export import sections
from pyro_corex.export.content import gather
from pyro_corex.export.evaluated import collect, evaluate
from pyro_corex.export.pictures import image_shape as shape_of
from pyro_corex.export.view import View
from pyro_corex.files import as_file, replacing
from pyro_corex.training import History


def report(
    module: Any,
    data: Data,
    path: str | Path,
    *,
    history: History | None = None,
    image_shape: tuple[int, ...] | None = None,
    column_names: Sequence[str] | None = None,
    n_traversals: int = 6,
    title: str | None = None,
    batch_size: int = 1024,
    transform: Transform | None = None,
    seed: int = 0,
) -> Path:
    r"""Writes what a program or a :class:`~pyro_corex.CorEx` has learned as one HTML page.

    The page holds its pictures and its script, opens from disk, and asks the network for nothing.
    On it are the bound on TC(x) and its terms with standard errors (Eq. 10), how well the latents
    tell each input dimension (Eq. 8), the mutual information :math:`I(z_j : x)` of each latent, a
    traversal with a slider for each of the top latents, samples from the prior and from the product
    of the aggregate posterior's marginals (Sec. 6.3), the variances of the latents (Fig. 7), the
    layers of a stack (Eq. 16), and the training history.  All information is in nats.

    Of a fitted ``CorEx`` the page says how each column was read, what was found, what each latent
    tells of each column, loadings and correlations of factors or profiles of classes, the tree of
    layers, and how many latents stand out from noise.

    What cannot be known of a program is left out, and the page says why: without ``.encode`` there
    is no mutual information, without a ``.decode`` that takes z alone there are no traversals,
    without a proper likelihood there is no bound.

    :param module: a program with ``.model(*batch)`` and ``.guide(*batch)``; or a fitted ``CorEx``,
        whose ``data`` are a table ``(N, d)`` as it takes them.  Of the options only ``title`` and
        ``seed`` are for a ``CorEx``.
    :param data: as :func:`~pyro_corex.tc_bound` takes it, shape ``(N, ...)``; preferably data that
        the program was not trained on.  All of it is kept in memory.  Of several things x is the
        first that is observed; the pictures are of it.
    :param path: the file to write; its folder must exist.  What cannot be written is refused at
        once, and an older page stays as it is unless the new one is complete.
    :param history: what :func:`~pyro_corex.fit` returned.
    :param image_shape: ``(height, width)`` or ``(channels, height, width)``, for images that are
        flat; data of shape ``(N, height, width)`` and ``(N, channels, height, width)`` are images
        in any case.
    :param column_names: of a table, one for each input dimension.
    :param n_traversals: how many latents get a slider, those first that tell most about x.
    :param title: of the page; the name of the program's class by default.
    :param batch_size: of tensors, arrays and data sets.
    :param transform: as :func:`~pyro_corex.tc_bound` takes it, applied once to each batch.
    :param seed: of all draws; torch's random state is put back afterwards.
    :returns: the path of the page.  The same arguments give the same page.
    :raises ValueError: for data that are empty, and for names and shapes that do not fit them.
    :raises TypeError: for a module without ``.model`` and ``.guide``, and a path that is none.
    :raises OSError: where the file cannot be written.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> from pyro_corex.programs import CorExVAE, mlp_decoder, mlp_encoder
    >>> vae = CorExVAE(mlp_encoder([20, 4]), mlp_decoder([4, 20]), 4)
    >>> x = torch.bernoulli(torch.full((50, 20), 0.3))
    >>> with TemporaryDirectory() as folder:
    ...     report(vae, x, f"{folder}/page.html", n_traversals=1).name
    'page.html'
    """
    if not isinstance(n_traversals, int) or n_traversals < 0:
        raise ValueError(f"n_traversals must be an integer >= 0, but got {n_traversals!r}")
    if history is not None and not isinstance(history, History):
        raise TypeError(f"history must be what fit returned, but got {type(history).__name__}")
    template, target = _template(), as_file(path)
    estimator = sys.modules.get("pyro_corex.estimator")  # else nobody has made one
    if estimator is not None and isinstance(module, estimator.CorEx):
        given = {"history": history, "image_shape": image_shape, "column_names": column_names}
        _write_table(module, data, target, title, seed, {**given, "transform": transform})
        return Path(path)
    with replacing(target) as file:
        options: Any = {"batch_size": batch_size, "seed": seed}
        whole = collect(module, data, batch_size, transform, seed)
        if len(whole) < 2:
            raise ValueError(f"data must hold at least 2 data, but got {len(whole)}")
        found = evaluate(module, whole, **options)
        _, x = found.shown
        view = View(x, shape_of(x, image_shape), _names(column_names, x[0].numel()))
        options |= {"images": view.image is not None, "n_traversals": n_traversals}
        content = gather(module, found, **options)
        about = (
            f"{content.program} on {len(x)} data of {len(view.names)} dimensions. All information "
            "is in nats per datum; equations and sections are those of Gao et al. (2018)."
        )
        made = list(sections.of_program(content, view, history))
        file.write(template.render(title=title or content.program, about=about, sections=made))
    return Path(path)


def _write_table(
    corex: Any, data: Any, target: Path, title: str | None, seed: int, unused: dict[str, Any]
) -> None:
    """The page of a table."""
    from sklearn.utils.validation import check_is_fitted  # here, as nothing else needs it

    from pyro_corex.export.tables import of_table

    check_is_fitted(corex)
    if given := [name for name, value in unused.items() if value is not None]:
        raise ValueError(
            f"{given[0]} must be left out for a CorEx, which knows its columns, but got "
            f"{unused[given[0]]!r}"
        )
    made = list(of_table(corex, data, seed))
    about = (
        f"CorEx of {corex.n_samples_} rows and {len(corex.columns_)} columns. All information is "
        "in nats per row; equations are those of Gao et al. (2018)."
    )
    with replacing(target) as file:
        page = _template().render(title=title or "CorEx", about=about, sections=made)
        file.write(page)


def _names(given: Sequence[str] | None, width: int) -> list[str]:
    if given is None:
        return [f"x{i}" for i in range(width)]
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise TypeError(f"column_names must be a sequence of names, but got {given!r}")
    if len(given) != width:
        raise ValueError(f"column_names has {len(given)} names, but x has {width} columns")
    return list(map(str, given))


def _template() -> Any:
    """The template of the page, which escapes all that it is given."""
    from jinja2 import Environment, PackageLoader  # here, as nothing else needs it

    loader = PackageLoader("pyro_corex.export", "")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.jinja")
