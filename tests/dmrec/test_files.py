"""Atomic writes."""

import os

import pytest
from dmrec import files
from dmrec.errors import DmrecError


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    files.write_json(path, {"a": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_reading_names_the_file(tmp_path):
    with pytest.raises(DmrecError, match=r"x.json does not exist"):
        files.read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DmrecError, match=r"x.json is not valid JSON"):
        files.read_json(tmp_path / "x.json")
