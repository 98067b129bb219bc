"""GGUF files for the other engines of `mythos bench`: their weights in another form, and bytes of weights."""

import hashlib
import os
import tempfile
from pathlib import Path

HEAD = ("output.weight", "token_embd.weight")  # the second only where there is no first: then they are tied
FILE_TYPE = "general.file_type"  # llama_ftype of llama.h: a name for the whole file's form
FORMS = {"q4_0": ("Q4_0", 2), "q8_0": ("Q8_0", 7)}
"""By name: the type of tensors (ggml's), and the value of `general.file_type`."""


def weight_bytes(file: Path) -> int:
    """Bytes of a GGUF file that one token needs: an input embedding only when it is the head too."""
    from gguf import GGUFReader

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(file).tensors}
    untied = HEAD[0] in sizes
    return sum(size for name, size in sizes.items() if not (untied and name == HEAD[1]))


def converted(source: Path, form: str, folder: Path) -> Path:
    """`source` in `form` (a name of FORMS), written into `folder` when a file of that content is not there.

    The file is named after the SHA-256 of `source`, and appears whole or not at all.
    """
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = folder / f"{digest[:16]}-{form}.gguf"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            fresh = Path(name) / target.name
            convert(source, form, fresh)
            os.replace(fresh, target)
    return target


def convert(source: Path, form: str, target: Path) -> None:
    """Write the matrices of `source` anew as `form`, rounded as ggml's reference does.

    Input embedding and head become Q8_0, as llama.cpp's own quantise program makes them where rows are not a
    multiple of 256. Norms, matrices that are in that type already, and metadata stay as they are, but for the
    name of the form. The same source gives the same bytes.
    """
    import gguf

    body = gguf.GGMLQuantizationType[FORMS[form][0]]
    reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue  # the writer's own
        value = FORMS[form][1] if field.name == FILE_TYPE else field.contents()
        kind = field.types[0]
        items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, kind, items)
    for tensor in reader.tensors:
        wanted = gguf.GGMLQuantizationType.Q8_0 if tensor.name in HEAD else body
        if len(tensor.shape) == 1 or tensor.tensor_type == wanted:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
