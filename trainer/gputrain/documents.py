"""Documents from wherever they are: text, JSON lines, parquet, Hugging Face datasets; one at a time."""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from gputrain.errors import ConfigError, DataError

READ_BYTES = 1 << 20
HUB = "hf:"
"""Prefix of the name of a Hugging Face dataset: ``hf:HuggingFaceFW/fineweb-edu@sample-10BT``."""


@dataclass(frozen=True)
class Reading:
    """How documents are cut out of their sources."""

    column: str = "text"
    """Field of JSON lines, parquet and datasets."""
    separator: str = ""
    """Between the documents of a text file; empty: a file is one document."""
    hub_split: str = "train"


def read_documents(sources: Sequence[str], reading: Reading, skip: int = 0) -> Iterator[str]:
    """The documents of all sources in order, without the first `skip`.

    What is not UTF-8 becomes U+FFFD. Raises DataError naming the place of what cannot be read,
    ConfigError when a library is missing.
    """
    if len(sources) == 1 and sources[0].startswith(HUB):
        yield from map(clean, _hub(sources[0], reading, skip))
        return
    everything = itertools.chain.from_iterable(_open(name, reading) for name in sources)
    yield from map(clean, itertools.islice(everything, skip, None))


def clean(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _open(name: str, reading: Reading) -> Iterator[str]:
    if name.startswith(HUB):
        return _hub(name, reading, 0)
    path = Path(name)
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    if not path.is_file():
        raise DataError(f"Cannot read {path}: there is no such file.")
    if kind == "parquet":
        return _parquet(path, reading.column)
    return _guarded(
        path, _json_lines(path, reading.column) if kind == "jsonl" else _text(path, reading.separator)
    )


def _guarded(path: Path, documents: Iterator[str]) -> Iterator[str]:
    try:
        yield from documents
    except (OSError, EOFError) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error


def _binary(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _text(path: Path, separator: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest: list[str] = []
    with _binary(path) as file:
        while chunk := file.read(READ_BYTES):
            text = decoder.decode(chunk)
            if not separator:
                rest.append(text)
                continue
            *whole, last = ("".join(rest) + text).split(separator)
            rest = [last]
            yield from whole
    yield "".join(rest) + decoder.decode(b"", final=True)


def _json_lines(path: Path, column: str) -> Iterator[str]:
    with _binary(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8", "replace"))
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
            if not isinstance(record, dict) or not isinstance(record.get(column), str):
                has = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                raise DataError(
                    f"{path}, line {number} has no text under {column!r} (it has: {has}); see --column."
                )
            yield record[column]


def _parquet(path: Path, column: str) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError("Reading parquet needs the package: pip install pyarrow.") from None
    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a parquet file: {error}.") from error
    names = file.schema_arrow.names
    if column not in names:
        raise DataError(f"{path} has no column {column!r} (it has: {', '.join(names)}); see --column.")
    for batch in file.iter_batches(batch_size=1024, columns=[column]):
        yield from _strings(path.name, column, batch.column(0).to_pylist())


def _strings(name: str, column: str, values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if value is not None and not isinstance(value, str):
            raise DataError(f"{name}: column {column!r} holds {type(value).__name__}, not text.")
        yield value or ""


def _hub(name: str, reading: Reading, skip: int) -> Iterator[str]:
    """Stream a dataset; cache and token are where the environment says (HF_HOME, HF_TOKEN)."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"Streaming {name} needs the package: pip install datasets.") from None
    repository, _, subset = name.removeprefix(HUB).partition("@")
    token = os.environ.get("HUGGINGFACEHUB_API_TOKEN") or os.environ.get("HF_TOKEN")
    # A local folder or a builder such as "json" may stand for a repository: json@https://…/x.jsonl.
    files = {"data_files": subset} if repository in ("json", "parquet", "text") else {}
    try:
        stream = datasets.load_dataset(
            repository,
            None if files else subset or None,
            split=reading.hub_split,
            streaming=True,
            token=token,
            **files,
        )
        stream = stream.skip(skip) if skip else stream
        for record in stream:
            if reading.column not in record:
                raise DataError(
                    f"{name} has no column {reading.column!r} (it has: {', '.join(record)}); see --column."
                )
            yield from _strings(name, reading.column, [record[reading.column]])
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"Cannot stream {name}: {error}. Run the same command again to go on.") from error
