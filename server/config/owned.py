"""Take settings' defaults and ranges from the dataclasses of other packages that own them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """Tie a setting to the field of the owner that its value goes to. ``unit``: this many of the owner's units make
    one of the setting's; with an ``int``, the owner's value is one, too."""

    owner: type
    name: str
    unit: float | None = None

    def from_owner(self, value: Any) -> Any:
        """Return the owner's value in the setting's unit."""
        return value if self.unit is None or value is None else value / self.unit

    def to_owner(self, value: Any) -> Any:
        """Return the setting's value in the owner's unit."""
        if self.unit is None or value is None:
            return value
        return int(value * self.unit) if isinstance(self.unit, int) else value * self.unit


def owned(owner: type, name: str, unit: float | None = None) -> Any:
    """Return the field of a setting: default and range are those of the owner's field ``name``, or, with a dotted
    name, of what that field holds by default."""
    link = Link(owner, name, unit)
    first, _, rest = name.partition(".")
    default = getattr(owner, first)
    if rest:
        default = getattr(default, rest)
    (ranged,) = [item.metadata.get("range") for item in fields(owner) if item.name == first]
    bounds = None if ranged is None or isinstance(default, str) else tuple(link.from_owner(bound) for bound in ranged)
    return field(default=link.from_owner(default), metadata={"range": bounds, "link": link})


def links(section: Any) -> dict[str, Link]:
    """Return the links of a section's settings, by the setting's name."""
    return {item.name: item.metadata["link"] for item in fields(section) if "link" in item.metadata}


def composed(owner: type[T], section: Any, **given: Any) -> T:
    """Make the owner's dataclass from the settings of ``section`` that are tied to it, and from what is given."""
    taken = {
        link.name: link.to_owner(getattr(section, setting))
        for setting, link in links(section).items()
        if link.owner is owner and "." not in link.name
    }
    return owner(**{**taken, **given})
