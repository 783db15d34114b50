"""How this program names itself to peers and in the files it writes (PS3.7 D.3.3.2)."""

from __future__ import annotations

from typing import Final

# A random UUID under 2.25 (PS3.5 B.2), fixed for all versions of the program.
IMPLEMENTATION_CLASS_UID: Final = "2.25.81521901285362126641446532303890462003"
# At most 16 characters (PS3.7 D.3.3.2.3); follows the version of the program.
IMPLEMENTATION_VERSION_NAME: Final = "PSEUDOMRI_0_1"
