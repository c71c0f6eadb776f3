"""Facts that machines compare before they train together."""

from core.registry import LOADERS, MODELS
from core.run_settings import HParamFlags, Settings


def facts(folder, text="", checkpoint=None):
    """Of a training over the sets in a folder. text: clauses of base hparams."""
    data = f"qdraw_dir={folder}/sketches,crops_dir={folder}/crops"
    name, loader = "multidomain-representation", "quickdraw-cococrops-tf"
    assert name in MODELS.names()
    assert loader in LOADERS.names()
    return Settings.merge(name, loader, HParamFlags(text, "", data)).shared_facts(checkpoint)


def test_facts_are_of_contents_not_of_places(tmp_path):
    """Data in another folder count as the same; a file of another size, another hparam or
    checkpoint are not."""
    for place in ("here", "there"):
        for name in ("sketches", "crops"):
            (tmp_path / place / name).mkdir(parents=True)
            (tmp_path / place / name / "meta.json").write_bytes(b"123")
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "state.json").write_text("{}")
    first = facts(here)
    assert set(first) == {"program", "hparams", "data", "checkpoint"}

    def different(**changes):
        second = facts(there, **changes)
        return [name for name in first if first[name] != second[name]]

    assert different() == []
    assert different(text="seed=1") == ["hparams"]
    assert different(checkpoint=here) == ["checkpoint"]
    (there / "crops" / "meta.json").write_bytes(b"1234")
    assert different() == ["data"]
