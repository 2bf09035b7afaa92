"""Pictures of runs that are there."""

import pytest
import tiny
from dmrec.cli.main import main
from matplotlib.figure import Figure

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    return stopped.value.code or 0, capsys.readouterr().err


def test_curves_of_models_with_their_seeds(tmp_path, capsys, monkeypatch):
    tiny.make(tmp_path / "data")
    where = ("--no-baselines", "--data", tmp_path / "data", "--out", tmp_path / "runs")
    options = ("--seeds", "2", "--set", "training.epochs=6", "--set", "model.hidden=16")
    assert run(capsys, "train", "mult-vae", *where, *options)[0] == 0
    assert run(capsys, "train", "ease", *where)[0] == 0
    drawn, save = [], Figure.savefig

    def savefig(self, *given, **more):
        drawn.append(self)
        save(self, *given, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    out = tmp_path / "curves.png"
    folders = [tmp_path / "runs/tiny/mult-vae", tmp_path / "runs/tiny/ease"]
    assert run(capsys, "plot", *folders, "--out", out)[0] == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    assert len(curves) == 2  # of seeds, with evaluations after epochs 3 and 6
    assert len({line.get_color() for line in curves}) == 1
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["mult-vae", "ease"]
    status, printed = run(capsys, "plot", *folders, "--out", out, "--metric", "recall@3")
    assert status == 1
    assert "has no validation recall@3 in its log" in printed
    assert "the suffix must be one of" in run(capsys, "plot", *folders, "--out", tmp_path / "curves.gif")[1]
