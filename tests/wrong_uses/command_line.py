"""The command line."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from pyro_corex.__main__ import main

from . import Use, answered

TABLE = "a,b\n1,2\n2,1\n3,5\n"


def run(*options, table=TABLE):
    """What the command returns, what it says on the error stream, and on the other."""
    shown = StringIO()
    with (
        TemporaryDirectory() as folder,
        redirect_stderr(StringIO()) as told,
        redirect_stdout(shown),
    ):
        path = Path(folder) / "data.csv"
        if table is not None:
            path.write_text(table)
        try:
            code = main(["fit", str(path), "--output", folder, *options])
        except SystemExit as end:
            code = end.code
    return code, told.getvalue(), shown.getvalue()


def wrong(what, *says, options=(), table=TABLE):
    return answered(
        "python -m pyro_corex",
        what,
        lambda: run(*options, table=table),
        lambda got: got[0] == 2 and all(part in got[1] for part in says),
    )


USES: list[Use] = [
    wrong("no file", "error: there is no file", "data.csv", table=None),
    wrong("an empty file", "0 lines", "names and a row", table=""),
    wrong("a long row", "Row 3", "3 entries", "2 names", table="a,b\n1,2\n1,2,3\n"),
    wrong("constants", "constant", table="a,b\n1,2\n1,2\n1,2\n"),
    wrong("latents in words", "--n-hidden", "'few'", options=("--n-hidden", "few")),
    wrong("no latents", "n_hidden", ">= 1", options=("--n-hidden", "0")),
    wrong("a column to drop that is not there", "--drop", "['id']", options=("--drop", "id")),
    wrong("all dropped", "--drop", options=("--drop", "a,b")),
    wrong(
        "more states than rows",
        "n_states",
        "rows, 3",
        options=("--latent", "categorical", "--n-states", "4"),
    ),
    wrong("an unknown latent", "--latent", "gaussian", options=("--latent", "normal")),
    answered(
        "python -m pyro_corex",
        "auto for three rows",
        lambda: run("--n-hidden", "auto"),
        lambda got: got[0] == 0 and "3 rows say nothing of that: at least 10 are needed" in got[2],
    ),
    wrong("a long delimiter", "--delimiter", options=("--delimiter", ";;")),
]
