"""Names and UIDs that follow from the seed, so that the same patient is the same study."""

from __future__ import annotations

import hashlib


def uid(seed: int, *parts: object) -> str:
    """A UID below 2.25 (PS3.5 B.2) from the seed and what it names."""
    text = "/".join(["pseudomri-phantom", str(seed), *(str(part) for part in parts)])
    digest = bytearray(hashlib.sha256(text.encode()).digest()[:16])
    # version and variant bits of a UUID, as PS3.5 B.2 asks for
    digest[6] = digest[6] & 0x0F | 0x40
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(digest, 'big')}"


def frame_of_reference_uid(seed: int) -> str:
    """(0020,0052), shared by the phantom's CT and its true MRI."""
    return uid(seed, "frame of reference")


def patient_name(seed: int) -> str:
    """(0010,0010)."""
    return f"PHANTOM^SEED {seed}"
