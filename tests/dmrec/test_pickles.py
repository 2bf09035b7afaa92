"""Pickles of others: matrices and texts come out, and nothing in them runs."""

import builtins
import copyreg
import functools
import io
import operator
import os
import pathlib
import pickle
import pickletools
import random
import shutil
import subprocess
import types

import numpy as np
import pytest
import scipy.sparse as sp
from dmrec.data.sources import pickles
from dmrec.data.sources.matrices import read_matrix_file
from dmrec.data.sources.pickles import read_pickle
from dmrec.errors import DmrecError

MATRIX = sp.random(20, 30, 0.2, format="csr", rng=np.random.default_rng(0))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array])
def test_sparse_matrices(tmp_path, make, protocol):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(make(MATRIX), protocol))
    assert abs(read_pickle(path) - MATRIX).nnz == 0
    np.testing.assert_array_equal(read_matrix_file(path).toarray(), MATRIX.toarray() != 0)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays(tmp_path, dtype, order, protocol):
    array = np.asarray(np.arange(12).reshape(3, 4) % 5, dtype=dtype, order=order)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(array, protocol))
    found = read_pickle(tmp_path / "a.pkl")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_texts(tmp_path):
    profiles = {0: {"profile": "likes tea"}, np.int64(1): {"profile": "likes bicycles", "score": np.float32(0.5)}}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(profiles))
    assert read_pickle(tmp_path / "p.pkl") == profiles


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _by_name(module, name, *arguments, protocol=4):
    """A pickle that calls something which need not exist here."""
    text = pickle.dumps(arguments, protocol)
    body = text[2:-1] if protocol < 4 else text[11:-1]
    named = b"c" + f"{module}\n{name}\n".encode()
    return bytes([0x80, protocol]) + named + body + b"R."


def _state(value):
    """A sparse matrix whose attributes are ``value``: BUILD on a stand-in."""
    named = b"cscipy.sparse._csr\ncsr_matrix\n"
    return b"\x80\x03" + named + b")\x81" + pickle.dumps(value, 3)[2:-1] + b"b."


def malicious(canary):
    """Twenty pickles and more that try to make the file ``canary``, each its own way."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    dumps = pickle.dumps
    yield "os.system", dumps(Calls(os.system, touch))
    yield "os.popen", dumps(Calls(os.popen, touch))
    yield "eval", dumps(Calls(builtins.eval, python))
    yield "exec", dumps(Calls(builtins.exec, python))
    yield "open", dumps(Calls(builtins.open, str(canary), "w"))
    yield "import", dumps(Calls(builtins.__import__, "antigravity"))
    yield "getattr", dumps(Calls(builtins.getattr, "", "join"))
    yield "Popen", dumps(Calls(subprocess.Popen, ["touch", str(canary)]))
    yield "check_output", dumps(Calls(subprocess.check_output, ["touch", str(canary)]))
    yield "partial", dumps(Calls(functools.partial(os.system, touch)))
    yield "methodcaller", dumps(Calls(operator.methodcaller("touch"), canary))
    yield "rmtree", dumps(Calls(shutil.rmtree, str(canary.parent / "precious")))
    yield "pathlib", dumps(Calls(type(canary).touch, canary))
    yield "type", dumps(Calls(type, "T", (), {}))
    yield "namespace", dumps(Calls(types.SimpleNamespace))
    yield "posix", _by_name("posix", "system", touch)
    yield "runstring", _by_name("numpy.testing._private.utils", "runstring", python, {})
    yield "numpy.load", _by_name("numpy", "load", str(canary))
    yield "torch", _by_name("torch.serialization", "load", str(canary))
    yield "joblib", _by_name("joblib.numpy_pickle", "load", str(canary))
    yield "runpy", _by_name("runpy", "run_path", str(canary))
    yield "pip", _by_name("pip", "main", ["--version"])
    yield "our own", _by_name("dmrec.data.sources.pickles", "read_pickle", str(canary))
    yield "dotted", b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93."
    yield "protocol 0", b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR."
    yield "INST", b"(S'" + touch.encode() + b"'\nios\nsystem\n."
    yield "OBJ", b"(cos\nsystem\nS'" + touch.encode() + b"'\no."
    yield "old dictionary", b"c__builtin__\neval\n(V" + python.encode() + b"\ntR."
    yield "persistent id", b"\x80\x03X\x02\x00\x00\x00idQ."
    yield "extension registry", b"\x80\x02\x82\xf0)R."
    yield "inside a dictionary", dumps({0: {"profile": Calls(os.system, touch)}})
    yield "inside objects", dumps(np.array([Calls(os.system, touch)], dtype=object))
    yield "inside a matrix", _state({"_shape": Calls(os.system, touch)})
    yield "class of a matrix", _state((None, {"__class__": Calls(os.system, touch)}))
    yield "a tuple of tuples as a key", b"\x80\x04})" + b"\x85" * 200_000 + b"Ns."
    yield (
        "defaults of a function",
        b"\x80\x04]cnumpy.core.multiarray\n_reconstruct\nN}\x8c\x0c__defaults__))\x86\x86sb0.",
    )
    yield "state of a name", b"\x80\x04cnumpy\ndtype\n}\x8c\x02ofNsb."
    yield (
        "a class as a state",
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R(cnumpy\ndtype\ntb.",
    )
    yield "frozen set", b"\x80\x04(K\x01\x91."
    yield "next buffer", b"\x80\x05\x97."
    yield "import by a stack of words", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04" + b"true\x85R."


COUNT = len(list(malicious(pathlib.Path("/nowhere/canary"))))


def test_there_are_twenty():
    assert COUNT >= 20
    promises = (pathlib.Path(__file__).parents[2] / "docs/promises.md").read_text()
    assert f"{COUNT} malicious pickles, {COUNT} refused" in promises


@pytest.mark.parametrize("number", range(COUNT))
def test_nothing_runs(tmp_path, number):
    (tmp_path / "precious").mkdir()
    name, content = list(malicious(tmp_path / "canary"))[number]
    path = tmp_path / "p.pkl"
    path.write_bytes(content)
    if "defaults" not in name:
        pickletools.dis(content, io.StringIO())  # it is a pickle, not a malformed one
    copyreg.add_extension("os", "system", 0xF0)
    try:
        with pytest.raises(DmrecError, match="is not a pickle of a matrix or of texts"):
            read_pickle(path)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
    assert not (tmp_path / "canary").exists(), name
    assert (tmp_path / "precious").exists(), name


def test_the_attacks_would_work(tmp_path):
    """Or refusing them would show nothing."""
    made = 0
    for name, content in malicious(tmp_path / "canary"):
        if name in ("os.system", "exec", "check_output", "pathlib", "posix", "protocol 0", "INST", "OBJ"):
            pickle.loads(content)
            assert (tmp_path / "canary").exists(), name
            (tmp_path / "canary").unlink()
            made += 1
    assert made == 8


def _changed(**parts):
    state = {"_shape": MATRIX.shape, "data": MATRIX.data, "indices": MATRIX.indices, "indptr": MATRIX.indptr, **parts}
    return _state(state)


@pytest.mark.parametrize(
    "content",
    [
        _changed(indices=MATRIX.indices + 30),
        _changed(indices=-MATRIX.indices - 1),
        _changed(indptr=MATRIX.indptr * 1000),
        _changed(indptr=MATRIX.indptr[::-1].copy()),
        _changed(_shape=(20, 3)),
        _changed(_shape=(10**15, 30)),
        _changed(_shape="20"),
        _changed(data="many"),
        _changed(data=MATRIX.data[:5]),
        pickle.dumps(MATRIX)[:-40],
        pickle.dumps(np.array(["a", "b"])),
        pickle.dumps(np.zeros(3, dtype="f4,i4")),
        _changed(indices=MATRIX.indices.astype(float)),
        b"\x80\x04r\xff\xff\xff\x7f.",
        b"\x80\x04}(",
        b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
        b"",
    ],
    ids=lambda content: str(len(content)),
)
def test_what_is_damaged_is_refused(tmp_path, content):
    (tmp_path / "p.pkl").write_bytes(content)
    with pytest.raises(DmrecError, match="p.pkl is not a (pickle of a matrix or of texts|sparse matrix)"):
        read_matrix_file(tmp_path / "p.pkl")


def test_flipped_bytes_crash_nothing(tmp_path):
    """What still is a matrix is one whose indices are in range."""
    content, choose, refused = pickle.dumps(MATRIX), random.Random(0), 0
    for _ in range(1000):
        damaged = bytearray(content)
        damaged[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        (tmp_path / "p.pkl").write_bytes(damaged)
        try:
            found = read_matrix_file(tmp_path / "p.pkl")
            assert found.nnz == 0 or 0 <= found.indices.min() <= found.indices.max() < found.shape[1]
        except DmrecError:
            refused += 1
    assert refused > 100


def test_the_reader_is_what_it_was_after_all_attacks(tmp_path):
    before = _snapshot()
    for _, content in malicious(tmp_path / "canary"):
        (tmp_path / "p.pkl").write_bytes(content)
        with pytest.raises(DmrecError):
            read_pickle(tmp_path / "p.pkl")
    assert _snapshot() == before


def _snapshot():
    names = {name: value for name, value in vars(pickles).items() if not name.startswith("__")}
    inside = {name: dict(vars(value)) for name, value in names.items() if hasattr(value, "__dict__")}
    defaults = {
        name: (value.__defaults__, value.__kwdefaults__)
        for name, value in names.items()
        if callable(value) and hasattr(value, "__code__")
    }
    return names, inside, defaults


def test_other_things_are_named(tmp_path):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps("text"))
    with pytest.raises(DmrecError, match="p.pkl holds no matrix and no texts, but str"):
        read_pickle(tmp_path / "p.pkl")
    with pytest.raises(DmrecError, match="none.pkl is not a file"):
        read_pickle(tmp_path / "none.pkl")
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(np.zeros(3)))
    with pytest.raises(DmrecError, match="it holds ndarray"):
        read_matrix_file(tmp_path / "p.pkl")
