"""Which versions of packages are installed."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def version_of(package: str) -> str | None:
    """Version of a package, by the name under which it is installed; None when it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those among the packages that are installed, by name."""
    return {package: found for package in packages if (found := version_of(package)) is not None}
