"""Reading runs from CSV files."""

import pytest

from mythos.plan.scaling import ScalingError, ScalingRun
from mythos.plan.sweep import read_runs

HEAD = "params,tokens,loss\n"


def written(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    return path


def test_plain(tmp_path):
    path = written(tmp_path, "\ufeff" + HEAD + "1e9,20000000000,2.5\n7e9,1.4e11,2.2\n")
    assert read_runs(path) == {(): (ScalingRun(1e9, 2e10, 2.5), ScalingRun(7e9, 1.4e11, 2.2))}


def test_experts_names_and_others(tmp_path):
    path = written(
        tmp_path, "run,params,active_params,tokens,loss,note\na,8e9,1e9,2e10,2.4,x\n,1e9,,2e10,2.5,y\n"
    )
    assert read_runs(path)[()] == (ScalingRun(8e9, 2e10, 2.4, 1e9, "a"), ScalingRun(1e9, 2e10, 2.5))


def test_series_and_another_count(tmp_path):
    path = written(tmp_path, "set,val,params,body,tokens,loss\nb,1,9,5,6,3\na,1,9,5,6,4\nb,1,9,5,8,2\n")
    found = read_runs(path, by=("set", "val"), params="body")
    assert list(found) == [("b", "1"), ("a", "1")]
    assert [run.loss for run in found["b", "1"]] == [3, 2] and found["a", "1"][0].params == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'params'"),
        (HEAD, "holds no runs"),
        ("params,loss\n1,2\n", "no column 'tokens'.*params, loss"),
        (HEAD + "1e9,2e10,2.5\n1e9,many,2.5\n", "line 3: .*many.*plain numbers"),
        (HEAD + "1e9,2e10,nan\n", "line 2: loss is nan"),
        (HEAD + "1e9,-5,2\n", "line 2: tokens is -5"),
        (HEAD + "1e9,2e10\n", "line 2"),
        (HEAD + "1e9,,2\n", "line 2"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(ScalingError, match=message) as caught:
        read_runs(written(tmp_path, text))
    assert caught.value.cure


def test_no_file(tmp_path):
    with pytest.raises(ScalingError, match="cannot be read"):
        read_runs(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"params,tokens,loss\n\xff\xfe,1,2\n")
    with pytest.raises(ScalingError, match="cannot be read"):
        read_runs(tmp_path / "bytes.csv")
    with pytest.raises(ScalingError, match="no column 'set'"):
        read_runs(written(tmp_path, HEAD), by=("set",))
