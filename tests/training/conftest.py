import pytest

from tests.training.programs import run


@pytest.fixture
def folder(tmp_path):
    """A folder with the checkpoint of a run of one epoch."""
    run(tmp_path / "run", epochs=1)
    return tmp_path


@pytest.fixture
def path(folder):
    """That checkpoint, which has to be there in the end as it was, and alone."""
    path = folder / "run"
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before
    assert [entry.name for entry in folder.iterdir()] == ["run"]
