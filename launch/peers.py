"""Connects the processes of one run, and ends all of them if one is lost.

Process 0 listens at the coordinator's address. Every other process keeps a connection to process 0,
on which both sides send several heartbeats in each timeout.

JAX aborts a process with a stack trace when its connection to JAX's coordination service breaks.
Therefore the service listens on the loopback interface of process 0 only. Other processes reach the
service through tunnels to the coordinator's address. A tunnel keeps the connection to JAX open when
process 0 is lost.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import threading
from collections.abc import Sequence

import jax

from densenet_jax.errors import INTERRUPTED_STATUS, Interrupted, counted

# More heartbeats detect a lost process closer to the timeout, but wake the thread more often.
_HEARTBEATS_PER_TIMEOUT = 10
_RETRY_SECONDS = 0.25
# Time in which a process may still report its own error after another process is lost.
_GRACE_SECONDS = 1.0
# JAX aborts a process after its own timeouts. They are long because `Group` detects lost processes.
_JAX_TIMEOUT_SECONDS = 7 * 86_400

_group: "Group | None" = None
# The thread that holds this lock writes the last message of the process.
_last_message = threading.Lock()


def join(
    address: str, processes: int, process: int, timeout: float, devices: Sequence[int] | None = None
) -> None:
    """Waits for all processes of a run, initialises JAX for them, and watches them afterwards.

    Args:
      address: HOST:PORT, where process 0 listens.
      processes: number of processes.
      process: index of this process.
      timeout: seconds to wait for the other processes at the start, and for a heartbeat later.
      devices: the local devices that JAX may use; None leaves the choice to JAX.

    Raises Interrupted if the processes do not meet.
    """
    global _group
    group = Group(address, processes, process, timeout)
    local = group.meet()
    _group = group
    jax.distributed.initialize(
        local,
        processes,
        process,
        devices,
        coordinator_bind_address=local,
        heartbeat_timeout_seconds=_JAX_TIMEOUT_SECONDS,
        shutdown_timeout_seconds=_JAX_TIMEOUT_SECONDS,
    )


def finish() -> None:
    """Waits for the other processes after a successful run, and disconnects from them."""
    if _group:
        jax.distributed.shutdown()
        _group.finish()


def lost() -> tuple[str, int] | None:
    """Returns an error message and the exit status if another process is lost, else None."""
    return _group.lost() if _group else None


def reserve_last_message() -> None:
    """Keeps `Group` from writing a second message after the one that ends this process."""
    if _group:
        _last_message.acquire()


def end(status: int) -> None:
    """Notifies the other processes that this process ends with `status`."""
    if _group:
        _group.end(status)


@dataclasses.dataclass(eq=False)
class _Link:
    """A connection to another process that carries JSON objects, one a line."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    missed_heartbeats: int = 0
    is_done: bool = False

    def send(self, **message) -> None:
        if not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict:
        """Reads one message.

        Raises OSError if the connection ends, ValueError if another program answers.
        """
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the connection was closed")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("not a JSON object")
        return message


class Group:
    """Connections from this process to the other processes of its run."""

    def __init__(self, address: str, processes: int, process: int, timeout: float):
        self.address, self.processes, self.process = address, processes, process
        self.timeout = timeout
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._links: dict[int, _Link] = {}
        self._has_started = False
        self._lost: tuple[str, int] | None = None
        self._is_lost = threading.Event()
        # Strong references to tasks and servers, because asyncio keeps weak ones.
        self._kept: list[asyncio.Task | asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="peers", daemon=True).start()

    def meet(self) -> str:
        """Waits for all processes. Returns the local address of JAX's coordination service.

        Raises Interrupted if a process is missing after the timeout, or if flags disagree.
        """
        return self._run(self._meet())

    def lost(self) -> tuple[str, int] | None:
        # JAX may detect a closed connection shortly before this group does.
        self._is_lost.wait(_GRACE_SECONDS)
        return self._lost

    def finish(self) -> None:
        self._run(self._finish())

    def end(self, status: int) -> None:
        self._loop.call_soon_threadsafe(self._announce_end, status)
        with contextlib.suppress(TimeoutError):
            self._run(asyncio.sleep(0), timeout=_GRACE_SECONDS)

    def _run(self, coroutine, timeout: float | None = None):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def _keep(self, coroutine) -> None:
        self._kept.append(self._loop.create_task(coroutine))

    async def _meet(self) -> str:
        local = await (self._follow() if self.process else self._lead())
        self._keep(self._watch())
        return local

    async def _lead(self) -> str:
        self._meeting = self._loop.create_future()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._jax_port = free.getsockname()[1]
        try:
            self._kept.append(await asyncio.start_server(self._accept, None, self._port))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise Interrupted(
                f"process 0 cannot listen at port {self._port} ({reason}): end "
                "the program that uses the port, or give all processes another --coordinator"
            ) from error
        self._start_if_complete()
        try:
            await asyncio.wait_for(self._meeting, self.timeout)
        except TimeoutError:
            missing = [str(i) for i in range(1, self.processes) if i not in self._links]
            sentence = (
                f"{counted(len(missing), 'process')} of {self.processes} did not connect to "
                f"{self.address} within {self.timeout:g} s (--process={', '.join(missing)}): start "
                "the same command on every host, or raise --timeout"
            )
            for link in self._links.values():
                link.send(error=sentence)
            raise Interrupted(sentence) from None
        return f"127.0.0.1:{self._jax_port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(reader, writer)
        # Port scanners and other programs may connect as well.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            hello = await asyncio.wait_for(link.receive(), self.timeout)
            if "tunnel" in hello:
                await self._forward_to_service(link)
            else:
                await self._admit(link, int(hello["process"]), int(hello["processes"]))
        writer.close()

    async def _admit(self, link: _Link, process: int, processes: int) -> None:
        if processes != self.processes:
            sentence = (
                f"--processes is {self.processes} in process 0 and {processes} in process "
                f"{process}: give all processes the same number"
            )
        elif self._has_started:
            # The run may not have detected yet that it lost this process; it restarts afterwards.
            link.send(busy=f"a run with another process {process} is already running there")
            return
        elif process in self._links:
            sentence = (
                f"two processes were started with --process={process}: number processes from 0 to "
                f"{self.processes - 1}"
            )
        else:
            self._links[process] = link
            self._start_if_complete()
            await self._listen(process, link)
            return
        link.send(error=sentence)
        if not self._meeting.done():
            for other in self._links.values():
                other.send(error=sentence)
            self._meeting.set_exception(Interrupted(sentence))

    def _start_if_complete(self) -> None:
        if len(self._links) == self.processes - 1 and not self._meeting.done():
            self._has_started = True
            self._meeting.set_result(None)
            for link in self._links.values():
                link.send(start=True)

    async def _follow(self) -> str:
        reason = "no answer"
        try:
            async with asyncio.timeout(self.timeout):
                while True:
                    try:
                        link = await self._await_start()
                        break
                    except OSError as error:
                        reason = error.strerror or str(error)
                    except ValueError:
                        reason = "another program answers there"
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            raise Interrupted(
                f"process {self.process} of {self.processes} could not start with process 0 at "
                f"{self.address} within {self.timeout:g} s ({reason}): start the same command "
                "there with --process=0, correct --coordinator, or raise --timeout"
            ) from None
        self._has_started = True
        self._links[0] = link
        self._keep(self._listen(0, link))
        server = await asyncio.start_server(self._forward_to_process_0, "127.0.0.1", 0)
        self._kept.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _await_start(self) -> _Link:
        """Connects to process 0. Returns the connection once all processes are connected."""
        link = await self._connect()
        try:
            link.send(process=self.process, processes=self.processes)
            answer = await link.receive()
            if "error" in answer:
                raise Interrupted(answer["error"])
            if "start" not in answer:
                raise ConnectionError(answer["busy"])
        except BaseException:
            link.writer.close()
            raise
        return link

    async def _connect(self) -> _Link:
        return _Link(*await asyncio.open_connection(self._host, self._port))

    async def _listen(self, process: int, link: _Link) -> None:
        """Reads messages from `process` until the connection ends."""
        try:
            while True:
                message = await link.receive()
                link.missed_heartbeats = 0
                link.is_done |= "done" in message
                if "lost" in message:
                    self._end_all(message["lost"], message["status"])
        except (OSError, ValueError):
            if not self._has_started:
                self._links.pop(process, None)
            elif not link.is_done:
                self._end_all(self._sentence(process, "died"))

    async def _watch(self) -> None:
        """Sends heartbeats and counts missed ones.

        Does not compare times, because time also passes while this process is suspended.
        """
        while True:
            await asyncio.sleep(self.timeout / _HEARTBEATS_PER_TIMEOUT)
            for process, link in self._links.items():
                link.send(heartbeat=True)
                link.missed_heartbeats += 1
                if link.missed_heartbeats > _HEARTBEATS_PER_TIMEOUT and not link.is_done:
                    silent = f"has not answered for {self.timeout:g} s"
                    self._end_all(self._sentence(process, silent))

    def _sentence(self, process: int, what: str) -> str:
        return (
            f"process {process} of {self.processes} {what}: run the same command again on every "
            "host to resume from the last checkpoint"
        )

    def _end_all(self, sentence: str, status: int = INTERRUPTED_STATUS) -> None:
        """Notifies the other processes of a lost process, and ends this process soon afterwards."""
        if self._lost:
            return
        self._lost = sentence, status
        self._is_lost.set()
        for link in self._links.values():
            link.send(lost=sentence, status=status)
        self._loop.call_later(_GRACE_SECONDS, self._leave, sentence, status)

    def _leave(self, sentence: str, status: int) -> None:
        """Ends this process, because its main thread may wait for the lost process forever."""
        if _last_message.acquire(blocking=False):
            os.write(2, f"error: {sentence}\n".encode())
            os._exit(status)

    def _announce_end(self, status: int) -> None:
        what = f"process {self.process} of {self.processes} ended with status {status}"
        for link in self._links.values():
            link.send(lost=f"{what}: see its message", status=status)

    async def _finish(self) -> None:
        for link in self._links.values():
            link.send(done=True)
            link.is_done |= self.process > 0
        # Process 0 still forwards messages between the other processes and JAX's service.
        while not all(link.is_done for link in self._links.values()):
            await asyncio.sleep(0.01)

    async def _forward_to_process_0(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        tunnel = await self._connect()
        tunnel.send(tunnel=True)
        # JAX's side stays open at the end: otherwise JAX would abort this process.
        self._keep(_copy(tunnel.reader, writer))
        await _copy(reader, tunnel.writer)
        tunnel.writer.close()

    async def _forward_to_service(self, tunnel: _Link) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._jax_port)
                break
            await asyncio.sleep(0.05)
        both = _copy(reader, tunnel.writer), _copy(tunnel.reader, writer)
        await asyncio.wait(map(asyncio.ensure_future, both), return_when=asyncio.FIRST_COMPLETED)
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
