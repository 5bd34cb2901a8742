"""A file system that forgets, as a machine does that loses its power.

`Forgetful` is a mounted folder of real files. What a process writes there is read back by anybody;
what was not synced is gone, or torn at 512 bytes, after `cut`. It speaks the kernel's FUSE protocol
itself, in a process of its own, and needs nothing but `fusermount3` and `/dev/fuse`.

A cut keeps of each file its synced bytes, and of what was written since a subset of sectors (any,
all or none of them); of the changes of names since the last sync of the folder, the first few.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from struct import Struct, pack, unpack_from
from typing import Final

SECTOR: Final = 512
WRITE_MAX: Final = 1 << 20
IN: Final = Struct("<IIQQIIII")
ATTR: Final = Struct("<6Q10I")
ROOT: Final = 1
LOOKUP, FORGET, GETATTR, SETATTR, MKNOD, UNLINK, RENAME, OPEN, READ, WRITE, STATFS = (
    1, 2, 3, 4, 8, 10, 12, 14, 15, 16, 17,
)  # fmt: skip
RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, CREATE = (
    18, 20, 25, 26, 27, 28, 29, 30, 35,
)  # fmt: skip
INTERRUPT, DESTROY, BATCH_FORGET, RENAME2 = 36, 38, 42, 45
UNANSWERED: Final = {FORGET, BATCH_FORGET, INTERRUPT}


class Inode:
    """A file: what is seen, what is safe, and which sectors differ."""

    def __init__(self, number: int, mode: int) -> None:
        self.number = number
        self.mode = mode
        self.data = bytearray()
        self.safe = b""
        self.dirty: set[int] = set()

    def write(self, data: bytes | memoryview, offset: int) -> None:
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.dirty.update(range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)))

    def resize(self, size: int) -> None:
        self.dirty.update(range(min(size, len(self.data)) // SECTOR, len(self.data) // SECTOR + 1))
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def sync(self) -> None:
        if self.dirty or len(self.safe) != len(self.data):
            self.safe = bytes(self.data)
            self.dirty.clear()

    def cut(self, random: Random) -> int:
        """What is left; how many sectors were lost."""
        share = random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        kept = {sector for sector in sorted(self.dirty) if random.random() < share}
        size = random.choice((len(self.safe), len(self.data)))
        left = bytearray(self.safe[:size].ljust(size, b"\0"))
        for sector in sorted(kept):
            at = sector * SECTOR
            piece = self.data[at : min(at + SECTOR, size)]
            left[at : at + len(piece)] = piece
        lost = len(self.dirty) - len(kept)
        self.data, self.safe = left, bytes(left)
        self.dirty.clear()
        return lost


class Folder:
    """The state behind the mount, and the answers to the kernel's questions."""

    def __init__(self) -> None:
        self.inodes: dict[int, Inode] = {}
        self.names: dict[str, int] = {}
        self.safe_names: dict[str, int] = {}
        self.changes: list[dict[str, int]] = []  # the names after each change since the last sync
        self.newest = ROOT
        self.dead = False
        self.syncs = 0
        self.handlers: dict[int, Callable[[int, bytes], bytes | int]] = {
            INIT: self.init, LOOKUP: self.lookup, GETATTR: self.getattr, SETATTR: self.setattr,
            MKNOD: self.mknod, CREATE: self.create, UNLINK: self.unlink, RENAME: self.rename,
            RENAME2: self.rename2, OPEN: self.open, OPENDIR: self.open, READ: self.read,
            WRITE: self.write, FSYNC: self.fsync, FSYNCDIR: self.fsyncdir, READDIR: self.readdir,
            STATFS: self.statfs, RELEASE: self.nothing, RELEASEDIR: self.nothing,
            FLUSH: self.nothing, DESTROY: self.nothing,
        }  # fmt: skip

    def answer(self, request: bytes) -> bytes | None:
        _, opcode, unique, node, *_ = IN.unpack_from(request)
        if opcode in UNANSWERED:
            return None
        handler = self.handlers.get(opcode)
        if self.dead and opcode not in (INIT, FLUSH, RELEASE, RELEASEDIR):
            found: bytes | int = errno.EIO
        elif handler is None:
            found = errno.ENOSYS
        else:
            found = handler(node, request[IN.size :])
        error, body = (found, b"") if isinstance(found, int) else (0, found)
        return pack("<IiQ", 16 + len(body), -error, unique) + body

    # -- a cut

    def cut(self, seed: str) -> dict[str, int]:
        random = Random(seed)
        states = [self.safe_names, *self.changes]
        self.names = dict(random.choice((states[0], states[-1], random.choice(states))))
        lost = sum(inode.cut(random) for _, inode in sorted(self.inodes.items()))
        self.inodes = {n: i for n, i in self.inodes.items() if n in self.names.values()}
        self.safe_names, self.changes = dict(self.names), []
        return {"sectors": lost, "names": len(states) - 1, "syncs": self.syncs}

    # -- answers

    def nothing(self, node: int, body: bytes) -> bytes:
        return b""

    def init(self, node: int, body: bytes) -> bytes:
        flags = 1 << 5 | 1 << 22  # large writes, and as many pages as they need
        return pack("<IIIIHHIIHHI28x", 7, 31, 1 << 17, flags, 16, 12, WRITE_MAX, 1, 256, 0, 0)

    def attributes(self, node: int) -> bytes:
        if node == ROOT:
            mode, size = stat.S_IFDIR | 0o700, 0
        else:
            mode, size = self.inodes[node].mode, len(self.inodes[node].data)
        owner = (os.getuid(), os.getgid())
        return ATTR.pack(node, size, -(-size // 512), 0, 0, 0, 0, 0, 0, mode, 1, *owner, 0, 4096, 0)

    def entry(self, node: int) -> bytes:
        return pack("<QQQQII", node, 0, 0, 0, 0, 0) + self.attributes(node)

    def lookup(self, node: int, body: bytes) -> bytes | int:
        number = self.names.get(_name(body))
        return errno.ENOENT if number is None else self.entry(number)

    def getattr(self, node: int, body: bytes) -> bytes | int:
        if node != ROOT and node not in self.inodes:
            return errno.ENOENT
        return pack("<QII", 0, 0, 0) + self.attributes(node)

    def setattr(self, node: int, body: bytes) -> bytes | int:
        valid, size = unpack_from("<I12xQ", body)
        if node in self.inodes:
            if valid & 8:
                self.inodes[node].resize(size)
            if valid & 1:
                mode = unpack_from("<I", body, 68)[0]
                self.inodes[node].mode = stat.S_IFMT(self.inodes[node].mode) | stat.S_IMODE(mode)
        return self.getattr(node, b"")

    def _bind(self, changed: dict[str, int]) -> None:
        self.names = changed
        self.changes.append(dict(changed))

    def _make(self, name: str, mode: int) -> int:
        self.newest += 1
        self.inodes[self.newest] = Inode(self.newest, mode)
        self._bind({**self.names, name: self.newest})
        return self.newest

    def mknod(self, node: int, body: bytes) -> bytes:
        return self.entry(self._make(_name(body[16:]), unpack_from("<I", body)[0]))

    def create(self, node: int, body: bytes) -> bytes:
        mode = stat.S_IFREG | stat.S_IMODE(unpack_from("<I", body, 4)[0])
        return self.entry(self._make(_name(body[16:]), mode)) + bytes(16)

    def unlink(self, node: int, body: bytes) -> bytes | int:
        name = _name(body)
        if name not in self.names:
            return errno.ENOENT
        self._bind({n: i for n, i in self.names.items() if n != name})
        return b""

    def rename(self, node: int, body: bytes, at: int = 8) -> bytes | int:
        old, new = body[at:].split(b"\0")[:2]
        number = self.names.get(old.decode())
        if number is None:
            return errno.ENOENT
        left = {n: i for n, i in self.names.items() if n != old.decode()}
        self._bind({**left, new.decode(): number})
        return b""

    def rename2(self, node: int, body: bytes) -> bytes | int:
        return errno.EINVAL if unpack_from("<I", body, 8)[0] else self.rename(node, body, 16)

    def open(self, node: int, body: bytes) -> bytes:
        return bytes(16)

    def read(self, node: int, body: bytes) -> bytes | int:
        offset, size = unpack_from("<8xQI", body)
        if node not in self.inodes:
            return errno.EIO
        return bytes(self.inodes[node].data[offset : offset + size])

    def write(self, node: int, body: bytes) -> bytes | int:
        offset, size = unpack_from("<8xQI", body)
        if node not in self.inodes:
            return errno.EIO
        self.inodes[node].write(memoryview(body)[40 : 40 + size], offset)
        return pack("<II", size, 0)

    def fsync(self, node: int, body: bytes) -> bytes | int:
        if node not in self.inodes:
            return errno.EIO
        self.inodes[node].sync()
        self.syncs += 1
        return b""

    def fsyncdir(self, node: int, body: bytes) -> bytes:
        self.safe_names, self.changes = dict(self.names), []
        return b""

    def readdir(self, node: int, body: bytes) -> bytes:
        start, room = unpack_from("<8xQI", body)
        found = b""
        for at, (name, number) in enumerate(sorted(self.names.items())[start:], start + 1):
            raw = name.encode()
            entry = pack("<QQII", number, at, len(raw), self.inodes[number].mode >> 12) + raw
            entry += bytes(-len(entry) % 8)
            if len(found) + len(entry) > room:
                break
            found += entry
        return found

    def statfs(self, node: int, body: bytes) -> bytes:
        blocks = 1 << 24
        return pack("<QQQQQIIII24x", blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096, 0)


def _name(body: bytes) -> str:
    return body[: body.index(b"\0")].decode()


# -- the process that serves it


def _mount(path: str) -> int:
    """The kernel's end of a new mount, from the helper that may mount for anybody."""
    ours, theirs = socket.socketpair()
    options = "fsname=forgetful,default_permissions"
    subprocess.run(
        ["fusermount3", "-o", options, "--", path],
        env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
        pass_fds=[theirs.fileno()],
        check=True,
    )
    _, ancillary, _, _ = ours.recvmsg(16, socket.CMSG_SPACE(4))
    fds = array.array("i", ancillary[0][2][:4])
    ours.close()
    theirs.close()
    return fds[0]


def _unmount(path: str) -> None:
    subprocess.run(["fusermount3", "-u", "-z", "--", path], check=False, stderr=subprocess.DEVNULL)


def serve(path: str) -> None:
    """Until stdin ends: commands are lines of JSON there, answers are lines on stdout."""
    folder = Folder()
    fd = _mount(path)
    print("{}", flush=True)
    try:
        while True:
            ready, _, _ = select.select([fd, sys.stdin.fileno()], [], [])
            if fd in ready:
                try:
                    request = os.read(fd, WRITE_MAX + 8192)
                except OSError as e:
                    if e.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                        continue
                    raise
                answer = folder.answer(request)
                if answer is not None:
                    with contextlib.suppress(FileNotFoundError):  # whoever asked is gone
                        os.write(fd, answer)
            elif ready:
                line = os.read(sys.stdin.fileno(), 4096)
                if not line:
                    return
                command = json.loads(line)
                answered: dict[str, int] = {}
                if command["do"] == "stop":
                    folder.dead = True
                else:
                    _unmount(path)
                    os.close(fd)
                    answered = folder.cut(command["seed"])
                    folder.dead = False
                    fd = _mount(path)
                print(json.dumps(answered), flush=True)
    finally:
        _unmount(path)


# -- for the tests


class Forgetful:
    """A mounted forgetful folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the file system's process is gone"
        found: dict[str, int] = json.loads(line)
        return found

    def _tell(self, **command: str) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """From here on nothing gets through; whoever has files open hears EIO."""
        self._tell(do="stop")

    def come_back(self, seed: object) -> dict[str, int]:
        """The power is back: a fresh mount of what was left; how much was lost."""
        return self._tell(do="cut", seed=str(seed))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    serve(sys.argv[1])
