"""Nonsense given to every `mythos plan` command: one sentence, one cure, an exit code, and no plan."""

import pytest

from mythos.cli.main import run

FILES = {
    "table.csv": "a,b\n1,2\n",
    "heads.csv": "params,tokens,loss\n",
    "negative.csv": "params,tokens,loss\n1e9,-3,nan\n",
    "traffic.csv": "arrival,prompt,answer\n1,2,x\n",
    "rows.csv": "id,backend,model_path,system,precision,mode,isl,osl\n1,vllm,m,h100,fp8,nonsense,5,5\n",
    "empty.json": "{}",
    "broken.json": "[",
    "twice.json": '{"cases":[{"id":"a"},{"id":"a"}]}',
    "three.json": '{"cases":[3]}',
    "shapeless.json": '{"cases":[{"id":"x","kind":"train_mfu","inputs":{"hf_config":{"hidden_size":-4}}}]}',
    "key.toml": "x = 1",
    "format.json": '{"format":"z"}',
}

# command, arguments, and words of the sentence
CASES = [
    ("show", "", "Missing argument"),
    ("show", "nofamily", "No family is called"),
    ("show", "key.toml", "unknown key"),
    ("show", "./noise.bin", "not TOML"),
    ("show", "mythos-10t --tier nobody", "no tier nobody"),
    ("show", "mythos-10t --hardware XYZ", "No accelerator is called"),
    ("show", "mythos-10t --accelerators 0", "greater than or equal to 1"),
    ("show", "mythos-10t --accelerators 3.5", "valid integer"),
    ("show", "mythos-10t --accelerators 7", "Nothing fits"),
    ("show", "mythos-10t --accelerators 99999999999", "were asked for"),
    ("show", "mythos-10t --budget -3$", "makes no plan"),
    ("show", "mythos-10t --budget NaN$", "makes no plan"),
    ("show", "mythos-10t --budget 5", "no unit"),
    ("show", "mythos-10t --assume rent", "not understood"),
    ("show", "mythos-10t --assume rent=5:3:1", "rent is 5:3:1"),
    ("show", "mythos-10t --assume luck=1", "no assumption is called luck"),
    ("show", "mythos-10t --assume dispatch=2", "dispatch is 2"),
    ("show", "mythos-10t --assume step=inf", "step is inf"),
    ("show", "mythos-10t --seed -1", "greater than or equal to 0"),
    ("compare", "a b", "No family is called"),
    ("compare", "mythos-10t", "Missing argument"),
    ("compare", "mythos-10t@XYZ mythos-10t", "No accelerator is called"),
    ("compare", "mythos-10t nano --budget x", "no unit"),
    ("compare", "mythos-10t nano --assume a=b", "not understood"),
    ("choose", "abc", "no unit"),
    ("choose", "nanFLOP", "makes no plan"),
    ("choose", "1e99FLOP", "makes no plan"),
    ("choose", "300M$", "chosen for a compute"),
    ("choose", "1e26FLOP --law nobody", "no scaling law is called"),
    ("choose", "1e26FLOP --served abc", "not understood"),
    ("choose", "1e26FLOP --unique nan", "unique tokens is nan"),
    ("choose", "1e26FLOP --parameters -3", "parameters in all is -3"),
    ("choose", "1e26FLOP --ratio 0", "ratio of all to active parameters is 0"),
    ("fit", "nofile.csv", "No such file"),
    ("fit", ".", "Is a directory"),
    ("fit", "noise.bin", "not UTF-8 text"),
    ("fit", "table.csv", "no column 'params'"),
    ("fit", "heads.csv", "holds no runs"),
    ("fit", "negative.csv", "tokens is -3"),
    ("fit", "negative.csv --forecast x:y", "not understood"),
    ("fit", "negative.csv --series nobody", "no column 'nobody'"),
    ("serve", "mythos-10t", "no traffic"),
    ("serve", "mythos-10t --rate 5 --traffic traffic.csv", "--rate and --traffic"),
    ("serve", "mythos-10t --traffic traffic.csv", "line 2 is not understood"),
    ("serve", "mythos-10t --traffic noise.bin", "not UTF-8 text"),
    ("serve", "mythos-10t --rate inf", "rate is inf"),
    ("serve", "mythos-10t --rate 1 --answer nan", "answer is nan"),
    ("serve", "mythos-10t --rate 1 --spread 9", "spread is 9"),
    ("serve", "mythos-10t --rate 1 --ttft 0", "ttft is 0 ms"),
    ("serve", "mythos-10t --rate 1 --share 2", "a share of 2"),
    ("serve", "mythos-10t --rate 1 --accept 1", "accept is 1"),
    ("serve", "mythos-10t --rate 1 --draft 99", "draft is 99"),
    ("serve", "mythos-10t --rate 1 --precision fp2", "No precision is called"),
    ("serve", "mythos-10t --rate 1 --over nobody", "no tier is called nobody"),
    ("serve", "nano --tier haiku --rate 1e12", "replicas"),
    ("validate-serving", "nofile", "No such file"),
    ("validate-serving", "table.csv", "lacks the column"),
    ("validate-serving", "rows.csv", "neither agg nor disagg"),
    ("validate-serving", "rows.csv --factors format.json", "holds no factors"),
    ("validate-serving", "rows.csv --factors noise.bin", "not UTF-8 text"),
    ("calibrate-serving", ".", "Is a directory"),
    ("calibrate-serving", "table.csv", "lacks the column"),
    ("validate", "nofile", "No such file"),
    ("validate", "empty.json", "holds no cases"),
    ("validate", "broken.json", "not JSON"),
    ("validate", "twice.json", "two cases 'a'"),
    ("validate", "three.json", "has no id"),
    ("validate", "shapeless.json --efficiencies key.toml", "unknown key"),
    ("validate", "shapeless.json --efficiencies nofile", "No such file"),
    ("calibrate", "shapeless.json", "no training runs"),
    ("calibrate", "shapeless.json shapeless.json", "two files have a case x"),
]


@pytest.mark.parametrize(("command", "arguments", "words"), CASES)
def test_nonsense_gets_one_sentence_and_a_cure(tmp_path, monkeypatch, capsys, command, arguments, words):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "noise.bin").write_bytes(bytes(range(255, 0, -1)))
    monkeypatch.chdir(tmp_path)
    code = run(["plan", command, *arguments.split()])
    told = capsys.readouterr()
    assert code in (1, 2, 3) and told.out == ""
    error, *cure = told.err.strip().splitlines()
    assert error.startswith("error: ") and words in error and "Errno" not in error
    assert len(cure) == 1 and cure[0].startswith("cure: ")
