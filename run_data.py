"""The images that a run was trained on: whether its folders still hold them.

A fingerprint is ImageArray.fingerprint()'s, "<of names>-<of pixels>", or only the first half where
an older version saved it.
"""

from pathlib import Path

from errors import UserError


def refuse_swapped(now: dict[str, str], before: dict[str, str], whose: str) -> None:
    """Raise UserError if each folder holds what the other domain's held, in `whose` training.

    now, before: fingerprints by "domain_A_path" and "domain_B_path".
    """
    other = {"domain_A_path": "domain_B_path", "domain_B_path": "domain_A_path"}
    for part in (0, 1):  # names, and contents where the training knew them

        def known(found: dict[str, str], key: str, part: int = part) -> str | None:
            parts = str(found.get(key, "")).split("-")
            return parts[part] if part < len(parts) else None

        if all(known(now, k) == known(before, other[k]) != known(before, k) for k in now):
            flags = " and ".join(f"--{key}" for key in now)
            raise UserError(f"{flags}: the domains are swapped, as {whose} shows: its files of one "
                            "are those of the other here; A is anime, B is persons")  # fmt: skip


def tell_if_changed(folder: Path | str, now: str, before: object, since: str, so: str) -> None:
    """One line if a folder's fingerprint is not what it was, or that cannot be known.

    before: its fingerprint then; without its second part, or None, as older versions saved it.
    since: when that was; so: what follows from a change.
    """
    parts = [] if before is None else str(before).split("-")
    if any(old != new for old, new in zip(parts, now.split("-"), strict=False)):
        print(f"warning: {folder} has changed since {since}; {so}")
    elif len(parts) < 2:
        print(f"{folder}: whether its images are those of {since} is not known, since an older "
              "version did not save what they held")  # fmt: skip
