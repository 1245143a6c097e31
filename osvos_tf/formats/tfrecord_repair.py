"""TFRecord files as bytes: which records of a shard are whole, and what is wrong with the others.

A record is its length (8 bytes), that one's checksum (4), its data, and that one's checksum (4).
TensorFlow's reader gives up on a whole file at the first wrong checksum and cannot say where.
"""

import dataclasses
import struct
from collections.abc import Iterator

_FRAME = 16  # bytes of a record that are not its data
_CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, its bits turned round


@dataclasses.dataclass(frozen=True)
class Damage:
    """A record that cannot be read.

    Attributes:
        reason: what is wrong with it.
        is_end: whether all that follows is lost too, because its length is unknown.
    """

    reason: str
    is_end: bool = False


def split(content: bytes, *, check: bool = True) -> Iterator[bytes | Damage]:
    """Yields the data of each record, or its `Damage`.

    Args:
        content: of a TFRecord file, not compressed.
        check: compares checksums; 8 MB a second, so leave it where the whole file's is right.
    """
    position = 0
    while position < len(content):
        head = content[position : position + 12]
        if len(head) < 12 or (check and not _is_sum(head[:8], head[8:])):
            yield Damage("its length is damaged or cut off", is_end=True)
            return
        (length,) = struct.unpack_from("<Q", head)
        data = content[position + 12 : position + 12 + length]
        end = content[position + 12 + length : position + _FRAME + length]
        if len(data) < length or len(end) < 4:
            yield Damage("it is cut off", is_end=True)
            return
        yield data if not check or _is_sum(data, end) else Damage("its checksum is wrong")
        position += _FRAME + length


def _is_sum(data: bytes, stored: bytes) -> bool:
    """Tells whether `stored` is the data's CRC-32C, masked as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return stored == struct.pack("<I", masked)


def _table() -> tuple[int, ...]:
    rows = list(range(256))
    for _ in range(8):
        rows = [row >> 1 ^ (_CASTAGNOLI if row & 1 else 0) for row in rows]
    return tuple(rows)


_TABLE = _table()
