"""Bring a new version into service under load, and try to bring in one that must not be served."""

import asyncio
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from deploy.client import AsyncClient, Client, ClientError, Result
from deploy.content import HASH, is_held
from deploy.contract import PIPELINE_MODEL, Contract
from deploy.files import read_config, version_of
from deploy.network.golden import Golden
from deploy.repository import write_repository
from deploy.serve import main
from deploy.server import Server, ServerError
from deploy.server.options import FREE_PORTS
from deploy.server.process.workers import children_of, workers_of
from deploy.server.release import Release
from deploy.server.reload import Reloads, request_reload
from tests.deploy.conftest import small_network
from tests.helpers.golden import golden_of
from tests.helpers.memory import resident
from tests.helpers.serving import Served, served

MakeImage = Callable[..., bytes]


@pytest.fixture(scope="module")
def publish(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], Path]:
    """Return a function that publishes the network of a seed, as a build does."""
    folder = tmp_path_factory.mktemp("networks")

    def write(output: Path, seed: int) -> Path:
        network = folder / f"{seed}.onnx"
        if not network.exists():
            onnx.save(small_network(contract, seed), network)
        return write_repository(output, contract, network, golden_of(network, contract))

    return write


class Callers:
    """Ask a server without a pause, and sort its answers by the network that they come from."""

    def __init__(self, url: str, image: bytes, known: dict[bytes, int]) -> None:
        self.failed: list[ClientError] = []
        self.answered: dict[int, int] = dict.fromkeys([*known.values(), -1], 0)
        self._url, self._image, self._known = url, image, known
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def _ask(self) -> None:
        with Client(self._url) as client:
            while not self._stop.is_set():
                self._ask_once(client)

    def _ask_once(self, client: Client) -> None:
        try:
            mask = client.segment(self._image).mask.tobytes()
        except ClientError as error:
            self.failed.append(error)
        else:
            self.answered[self._known.get(mask, -1)] += 1

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def mask_of(server: Served, image: bytes) -> bytes:
    """Return the mask that the server answers."""
    with Client(server.grpc) as client:
        return client.segment(image).mask.tobytes()


def reload(repository: Path) -> int:
    """Run the command that reloads the repository's server."""
    return main(["--repository", str(repository), "--reload"])


@pytest.mark.parametrize("swaps", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_swaps_under_load_lose_and_mix_up_nothing(
    publish: Callable[[Path, int], Path], make_image: MakeImage, tmp_path: Path, swaps: int
) -> None:
    image, repository = make_image(), publish(tmp_path, 5)
    with served(repository) as server:
        known = {mask_of(server, image): 5}
        publish(tmp_path, 6)
        assert reload(repository) == 0
        known[mask_of(server, image)] = 6
        assert len(known) == 2, "networks of one mask could not be told apart"
        memory = []
        with Callers(server.grpc, image, known) as callers:
            for number in range(swaps):
                seed = 5 + number % 2
                before = callers.answered[seed]
                publish(tmp_path, seed)
                assert reload(repository) == 0
                # The new one answers, alone: what the reload says has happened.
                assert known[mask_of(server, image)] == seed
                assert callers.answered[seed] > before
                memory.append(resident(server.process.pid, *server.processes()))
        assert callers.failed == []
        assert callers.answered[-1] == 0
        assert len(children_of(server.tritonserver)) == 2, "the workers of earlier versions have ended"
        # One version is served, and the one that a build has replaced while it was.
        assert len([folder for folder in (repository / PIPELINE_MODEL).iterdir() if folder.is_dir()]) == 2
        if swaps >= 50:
            # The first swaps fill the allocator's pools.
            print(*(f"{one / 2**20:.0f}" for one in memory))
            assert max(memory[-10:]) < 1.05 * max(memory[:10])


def test_answers_name_their_network_and_clients_follow_it(
    contract: Contract,
    golden: Golden,
    network: Path,
    make_image: MakeImage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = write_repository(tmp_path, contract, network, golden)
    renamed = replace(contract, labels=("first", "second"))
    with served(repository) as server, Client(server.grpc) as grpc, Client(server.http, "http") as http:
        for labels, version in ((contract.labels, "1"), (renamed.labels, "2")):
            sha256 = read_config(repository / PIPELINE_MODEL).parameters[HASH].string_value
            results = [client.segment(make_image()) for client in (grpc, http)]
            results += asyncio.run(ask_twice(server.grpc, make_image(), lambda: None))
            assert [(one.version, one.sha256) for one in results] == 4 * [(version, sha256)]
            assert [tuple(one.class_probabilities) for one in results] == 4 * [labels]
            write_repository(tmp_path, renamed, network, golden)
            reload(repository)

        def back() -> None:
            write_repository(tmp_path, contract, network, golden)
            assert reload(repository) == 0

        before, after = asyncio.run(ask_twice(server.grpc, make_image(), back))
        assert [before.version, after.version] == ["2", "3"]
        assert [tuple(one.class_probabilities) for one in (before, after)] == [renamed.labels, contract.labels]
        # Numbered anew, answers of two networks could not be told apart.
        shutil.rmtree(repository)
        write_repository(tmp_path, renamed, network, golden)
        assert reload(repository) == 1
        assert "was made anew" in capsys.readouterr().err


async def ask_twice(url: str, image: bytes, between: Callable[[], None]) -> list[Result]:
    """Ask with one asynchronous client, and do something between its requests."""
    async with AsyncClient(url) as client:
        first = await client.segment(image)
        await asyncio.to_thread(between)
        return [first, await client.segment(image)]


def spoiled(contract: Contract, golden: Golden, output: Path, network: Path) -> None:
    """Publish a network whose answers are not those that it was verified with."""
    wrong = golden.answers._replace(class_probs=1 - golden.answers.class_probs)
    write_repository(output, contract, network, replace(golden, answers=wrong))


def flip(path: Path) -> None:
    """Change the last byte of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(folder: Path, parameter: str, value: str) -> None:
    """Change a parameter of a configuration by hand."""
    path = folder / "config.pbtxt"
    before = path.read_text()
    path.write_text(before.replace(read_config(folder).parameters[parameter].string_value, value))
    assert path.read_text() != before


def test_what_was_not_verified_is_not_loaded_and_the_old_goes_on(
    publish: Callable[[Path, int], Path],
    contract: Contract,
    golden: Golden,
    network: Path,
    make_image: MakeImage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, repository = make_image(), publish(tmp_path, 6)
    with served(repository) as server:
        known = mask_of(server, image)
        model = repository / PIPELINE_MODEL

        def version() -> Path:
            return model / version_of(read_config(model))

        says: dict[str, Callable[[], None]] = {
            "class": lambda: spoiled(contract, golden, tmp_path, network),
            "is not the network that was verified": lambda: flip(version() / "5.onnx"),
            "config.pbtxt is not what the build wrote": lambda: edit(model, "execution", "openvino bf16"),
        }
        with Callers(server.grpc, image, {known: 6}) as callers:
            for reason, damage in says.items():
                publish(tmp_path, 5)
                damage()
                assert reload(repository) == 1
                (line,) = capsys.readouterr().err.splitlines()
                assert line.startswith("the reload failed, and what was served still is: ") and reason in line
                assert mask_of(server, image) == known
        assert callers.failed == []
        assert callers.answered[-1] == 0
        # The old one's files are still there for a worker that has to be replaced.
        (worker,) = workers_of(server.tritonserver, PIPELINE_MODEL)
        os.kill(worker, signal.SIGKILL)
        with Client(server.grpc, retry_for=30) as client:
            assert client.segment(image).mask.tobytes() == known
        shutil.rmtree(repository)
        publish(tmp_path, 6)
        assert reload(repository) == 0


def test_answers_that_differ_from_pytorchs_are_refused_with_figures(
    contract: Contract, golden: Golden, network: Path, tmp_path: Path
) -> None:
    spoiled(contract, golden, tmp_path, network)
    with pytest.raises(ServerError) as error, Server(tmp_path / "model_repository", FREE_PORTS):
        pass
    assert "openvino f32 answers otherwise here than where it was verified: classification differs by" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_a_network_that_changes_on_disk_is_not_loaded_again(
    publish: Callable[[Path, int], Path], make_image: MakeImage, tmp_path: Path
) -> None:
    repository = publish(tmp_path, 5)
    with Server(repository, FREE_PORTS) as server:
        flip(next(repository.glob("resformer/*/5.onnx")))
        with pytest.raises(ServerError, match="the files of version 1 are not those that were verified"):
            server.replace_workers(PIPELINE_MODEL)


def test_a_machine_without_descriptors_for_a_new_version_goes_on_with_the_old(
    publish: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = publish(tmp_path, 5)
    server, loaded = Server(repository, FREE_PORTS), []

    def load(release: Release, probe: object) -> None:
        loaded.append(str(release))
        if len(loaded) == 1:
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(server, "_load_all", load)
    before = server.release
    publish(tmp_path, 6)
    with pytest.raises(OSError, match="Too many open files"):
        server.roll_out()
    assert server.release is before
    assert len(loaded) == 2 and loaded[1] == str(before)
    assert not is_held(repository / PIPELINE_MODEL / "2")
    before.close()


def test_a_reload_that_was_under_way_is_not_taken_for_the_one_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ask for a reload while another one runs, whose outcome comes first."""
    before = signal.getsignal(signal.SIGHUP)
    folder = tmp_path / f"server-of-{os.getpid()}-x"
    folder.mkdir()
    monkeypatch.setattr("deploy.server.reload.folders", lambda: [folder])
    try:
        reloads, asked = Reloads(), []
        reloads.announce(folder, tmp_path)
        with ThreadPoolExecutor(1) as pool:

            def first() -> str:
                asked.append(pool.submit(request_reload, tmp_path))
                while not reloads.wanted:
                    time.sleep(0.01)
                return "serving A"

            def second() -> str:
                raise TypeError("another thing that is wrong with B")

            reloads.run(folder, first)
            reloads.run(folder, second)
            (outcome,) = asked[0].result(30)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not outcome.succeeded
    assert outcome.message.endswith("what was served still is: TypeError: another thing that is wrong with B")


def test_a_repository_that_nobody_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reload(tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: no server of this user that serves {tmp_path} was found in ")
