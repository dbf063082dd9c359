"""Give what is served the number of a version, and keep the versions that running servers hold."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from data_pipeline.files import link_or_copy
from deploy.content import FILES_HASH, HASH, is_held, read_version, version_fingerprint
from deploy.files import read_config, version_of

NEW = "new"  # the folder of a version that has no number yet


def number_of(previous: Path, configs: Mapping[str, schema.ModelConfig]) -> int:
    """Return the number for a new version: that of the previous one where it is the same, or else one more than any.

    Args:
        previous: the repository before, which may be missing or damaged.
        configs: the new configurations by model, with their hashes.
    """
    earlier = [_read(previous / name) for name in configs]
    if [config.parameters[HASH] for config in earlier] == [config.parameters[HASH] for config in configs.values()]:
        numbers = {version_of(config) for config in earlier}
        if len(numbers) == 1 and "" not in numbers:
            return int(numbers.pop())
    taken = [int(folder.name) for folder in previous.glob("*/*") if folder.name.isdecimal()]
    return max(taken, default=0) + 1


def place(earlier: Path, model: Path, number: int, config: schema.ModelConfig) -> None:
    """Give a model's new version its number, and bring along the earlier versions that running servers hold.

    Args:
        earlier: the model's folder in the previous repository.
        model: its folder in the new one, with the new version in `NEW`.
        number: of the new version.
        config: of the new version.
    """
    for version in filter(is_held, earlier.glob("*")):
        # Published again, the same version keeps its very files, by which the server's mark is seen.
        if version.name != str(number) or _is_whole(version, config):
            (model / version.name).mkdir()
            for file in version.iterdir():
                if file.is_file():
                    link_or_copy(file, model / version.name / file.name)
    if (model / str(number)).exists():
        shutil.rmtree(model / NEW)
    else:
        (model / NEW).rename(model / str(number))


def _read(folder: Path) -> schema.ModelConfig:
    """Read a model's configuration, empty where there is none that can be read."""
    try:
        return read_config(folder)
    except (OSError, ValueError, text_format.ParseError):
        return schema.ModelConfig()


def _is_whole(version: Path, config: schema.ModelConfig) -> bool:
    try:
        contents = read_version(version, config.parameters["network"].string_value)
    except OSError:
        return False
    expected: str = config.parameters[FILES_HASH].string_value
    return version_fingerprint(contents) == expected
