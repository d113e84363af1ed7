"""The processes of one run: they meet at the start, and all end if one of them is lost.

Process 0 listens at the coordinator's address. Every other process keeps a connection to it, on
which both sides send a beat several times in each timeout.

JAX aborts a process, with a stack trace, when the process of its coordination service dies. So this
service listens on the loopback interface of process 0 only. The other processes reach it through
connections to the coordinator's address that stay open on JAX's side when process 0 is lost.
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

# More notice a lost process closer to the timeout, and wake the thread more often.
_BEATS_PER_TIMEOUT = 10
_RETRY_SECONDS = 0.25
# How long a process that knows of a lost one may take to report an error of its own instead.
_GRACE_SECONDS = 1.0
# JAX's own timeouts end a process with an abort. `Group` notices lost processes long before.
_JAX_TIMEOUT_SECONDS = 7 * 86_400

_group: "Group | None" = None
# Whoever holds this writes the last message of the process.
_last_message = threading.Lock()


def join(
    address: str, processes: int, process: int, timeout: float, devices: Sequence[int] | None = None
) -> None:
    """Waits for all processes of a run, joins them, and watches them from then on.

    Args:
      address: HOST:PORT, where process 0 listens.
      timeout: seconds to wait for the other processes now, and for a sign of life later.
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
    """Leaves the other processes after a run that ended well; waits for them."""
    if _group:
        jax.distributed.shutdown()
        _group.finish()


def lost() -> tuple[str, int] | None:
    """Returns what became of another process, and the status to end with; None if all are well."""
    return _group and _group.lost()


def reserve_last_message() -> None:
    """Called before the message that ends a process, so that a lost process adds no second one."""
    if _group:
        _last_message.acquire()


def end(status: int) -> None:
    """Tells the other processes that this one ends with `status`."""
    if _group:
        _group.end(status)


@dataclasses.dataclass(eq=False)
class _Link:
    """A connection to another process, for JSON objects, one a line."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    silent_beats: int = 0
    is_done: bool = False

    def send(self, **message) -> None:
        if not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict:
        """Raises OSError if the connection ends, ValueError if another program answers."""
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the connection was closed")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("not a message of this project")
        return message


class Group:
    """The processes of a run, as one of them sees them."""

    def __init__(self, address: str, processes: int, process: int, timeout: float):
        self.address, self.processes, self.process = address, processes, process
        self.timeout = timeout
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._links: dict[int, _Link] = {}
        self._has_started = False
        self._lost: tuple[str, int] | None = None
        self._is_lost = threading.Event()
        self._kept = []  # asyncio itself keeps only weak references.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="peers", daemon=True).start()

    def meet(self) -> str:
        """Waits for all processes. Returns the local address of JAX's coordination service.

        Raises Interrupted if they do not come within the timeout, or do not fit together.
        """
        return self._run(self._meet())

    def lost(self) -> tuple[str, int] | None:
        # JAX may notice a closed connection a moment before this does.
        self._is_lost.wait(_GRACE_SECONDS)
        return self._lost

    def finish(self) -> None:
        self._run(self._finish())

    def end(self, status: int) -> None:
        self._loop.call_soon_threadsafe(self._tell_of_end, status)
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
            raise Interrupted(
                f"process 0 cannot listen at port {self._port} ({os.strerror(error.errno)}): end "
                "the program that uses the port, or give all processes another --coordinator"
            ) from error
        self._start_if_complete()
        try:
            await asyncio.wait_for(self._meeting, self.timeout)
        except TimeoutError:
            missing = [str(i) for i in range(1, self.processes) if i not in self._links]
            sentence = (
                f"{counted(len(missing), 'process')} of {self.processes} did not come to "
                f"{self.address} within {self.timeout:g} s (--process={', '.join(missing)}): start "
                "the same command on every host, or raise --timeout"
            )
            for link in self._links.values():
                link.send(error=sentence)
            raise Interrupted(sentence) from None
        return f"127.0.0.1:{self._jax_port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(reader, writer)
        # Port scanners and other programs come here as well.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            hello = await asyncio.wait_for(link.receive(), self.timeout)
            if "tunnel" in hello:
                await self._carry_to_service(link)
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
            # The run may be about to notice that it lost this process, and then starts again.
            link.send(busy=f"a run is already going on there, with another process {process}")
            return
        elif process in self._links:
            sentence = (
                f"two processes were started with --process={process}: number them from 0 to "
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
                        link = await self._knock()
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
        server = await asyncio.start_server(self._carry_to_process_0, "127.0.0.1", 0)
        self._kept.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _knock(self) -> _Link:
        """Returns the connection to process 0 once all processes have come there."""
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
        """Reads what `process` sends until its connection ends."""
        try:
            while True:
                message = await link.receive()
                link.silent_beats = 0
                link.is_done |= "done" in message
                if "lost" in message:
                    self._lose(message["lost"], message["status"])
        except (OSError, ValueError):
            if not self._has_started:
                self._links.pop(process, None)
            elif not link.is_done:
                self._lose(self._sentence(process, "ended without a message"))

    async def _watch(self) -> None:
        """Sends beats and counts missing ones, as time also passes while a process is suspended."""
        while True:
            await asyncio.sleep(self.timeout / _BEATS_PER_TIMEOUT)
            for process, link in self._links.items():
                link.send(beat=True)
                link.silent_beats += 1
                if link.silent_beats > _BEATS_PER_TIMEOUT and not link.is_done:
                    silent = f"has not answered for {self.timeout:g} s"
                    self._lose(self._sentence(process, silent))

    def _sentence(self, process: int, what: str) -> str:
        return (
            f"process {process} of {self.processes} {what}: run the same command again on every "
            "host, which resumes from the last checkpoint"
        )

    def _lose(self, sentence: str, status: int = INTERRUPTED_STATUS) -> None:
        if self._lost:
            return
        self._lost = sentence, status
        self._is_lost.set()
        for link in self._links.values():
            link.send(lost=sentence, status=status)
        self._loop.call_later(_GRACE_SECONDS, self._leave)

    def _leave(self) -> None:
        """Ends this process, whose main thread may wait for the lost one forever."""
        sentence, status = self._lost
        if _last_message.acquire(blocking=False):
            os.write(2, f"error: {sentence}\n".encode())
            os._exit(status)

    def _tell_of_end(self, status: int) -> None:
        what = f"process {self.process} of {self.processes} ended with status {status}"
        for link in self._links.values():
            link.send(lost=f"{what}: see its message", status=status)

    async def _finish(self) -> None:
        for link in self._links.values():
            link.send(done=True)
            link.is_done |= self.process > 0
        # Process 0 carries what the others still exchange with JAX's service.
        while not all(link.is_done for link in self._links.values()):
            await asyncio.sleep(0.01)

    async def _carry_to_process_0(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        tunnel = await self._connect()
        tunnel.send(tunnel=True)
        # Does not close JAX's side at the end: JAX would abort this process.
        self._keep(_copy(tunnel.reader, writer))
        await _copy(reader, tunnel.writer)
        tunnel.writer.close()

    async def _carry_to_service(self, tunnel: _Link) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._jax_port)
                break
            await asyncio.sleep(0.05)
        ways = _copy(reader, tunnel.writer), _copy(tunnel.reader, writer)
        await asyncio.wait(map(asyncio.ensure_future, ways), return_when=asyncio.FIRST_COMPLETED)
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
