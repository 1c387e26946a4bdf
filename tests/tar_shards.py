"""WebDataset shards for tests."""

import io
import tarfile


def shard(files: dict[str, bytes]) -> bytes:
    """A tar file of files with these names and contents."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return content.getvalue()
