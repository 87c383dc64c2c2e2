"""A bucket as a folder, for processes that share it: one file a key, created exclusively.  Programs that tests start
find it by PYTHONPATH."""

import datetime as dt
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from vedr.errors import ConflictError, NotFoundError
from vedr.ports import DOCUMENT_BYTES, ObjectKey, StoredObject


class FolderStore:
    """Without versions: what is deleted is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def region(self) -> str:
        return self._folder.name

    def create(self, key: ObjectKey, data: bytes | memoryview) -> StoredObject:
        temporary = self._folder / f".{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
        temporary.write_bytes(data)
        try:
            os.link(temporary, self._file(key))
        except FileExistsError:
            raise ConflictError(f"{key} exists") from None
        finally:
            temporary.unlink()
        return self.head(key)

    def get(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
        del version, limit_bytes
        try:
            return self._file(key).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"no {key}") from None

    def view(self, key: ObjectKey, *, version: str | None = None, limit_bytes: int) -> memoryview:
        return memoryview(self.get(key, version=version, limit_bytes=limit_bytes))

    def head(self, key: ObjectKey, *, version: str | None = None) -> StoredObject:
        del version
        try:
            size_bytes = self._file(key).stat().st_size
        except FileNotFoundError:
            raise NotFoundError(f"no {key}") from None
        return StoredObject(key, size_bytes, None, dt.datetime.now(dt.UTC))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        keys = sorted(path.name.replace("%", "/") for path in self._folder.glob("[!.]*"))
        return iter([self.head(ObjectKey(key)) for key in keys if key.startswith(prefix)])

    def delete(self, key: ObjectKey) -> None:
        self._file(key).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._folder / key.replace("/", "%")
