"""A selector for Python's `selectors` and `asyncio`, on Doorbell:

    loop = asyncio.SelectorEventLoop(DoorbellSelector())

`DoorbellSelector` is to `Poller` what `selectors.EpollSelector` is to `select.epoll`. Differences to those two:
- A wait ends to the nanosecond, not to the millisecond.
- A forked child has a set of its own: what it changes is not changed in its parent.
- `close` ends a `select` that another thread is in (with ValueError); with epoll it may sleep for ever.
- Threads that `select` at once take turns: each event goes to one of them.
"""

import ctypes
import errno
import math
import os
import selectors
import threading
import time
import weakref
from collections.abc import Mapping

import doorbell as bell


class Poller:
    """The interface of `select.epoll`, level-triggered: events are bell.READ, bell.WRITE ...

    Any thread may call anything at any time: another may be in `poll`.
    """

    _bell = None

    def __init__(self):
        config = bell.Config()
        bell.check(bell.bell_config_init(config, ctypes.sizeof(config)))
        config.max_events = 65536  # as many as are ready: nobody should need two polls to see all
        out = ctypes.c_void_p()
        bell.check(bell.bell_create(config, ctypes.byref(out)))
        self._bell = out.value
        self._handles = {}  # fd -> handle
        # Held for each change, so that the manager is not destroyed under one.
        self._changing = threading.Lock()
        self._no_driver()
        _pollers.add(self)

    def _no_driver(self):
        # Held by the one thread that is in bell_poll, as Doorbell wants it.
        self._driving = threading.Lock()
        self._events = bytearray()

    def _open(self):
        if self._bell is None:
            raise ValueError("I/O operation on closed doorbell")
        return self._bell

    @property
    def closed(self):
        return self._bell is None

    def close(self):
        with self._changing:
            manager, self._bell = self._bell, None
            self._handles.clear()
            if manager is not None:
                # FORCE: a thread in `poll` is woken and waited for.
                bell.check(bell.bell_destroy(manager, bell.FORCE))

    def __del__(self):
        if self._bell is not None:
            bell.bell_destroy(self._bell, bell.FORCE)

    def fileno(self):
        """An fd that is readable when poll(0) would find something."""
        with self._changing:
            return bell.check(bell.bell_pollable_fd(self._open(), 0))

    def register(self, fd, eventmask):
        with self._changing:
            manager = self._open()
            if fd in self._handles:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            spec = bell.FdSpec(
                size=ctypes.sizeof(bell.FdSpec), fd=fd, interest=eventmask, mode=bell.LEVEL, user_data=fd
            )
            spec.target.kind = bell.TARGET_POLL
            handle = ctypes.c_uint64()
            bell.check(bell.bell_register_fd(manager, spec, ctypes.byref(handle)))
            self._handles[fd] = handle.value

    def modify(self, fd, eventmask):
        with self._changing:
            bell.check(bell.bell_modify(self._open(), self._handle(fd), eventmask, bell.LEVEL))

    def unregister(self, fd):
        with self._changing:
            manager = self._open()
            handle = self._handle(fd)
            del self._handles[fd]
            bell.check(bell.bell_unregister(manager, handle, 0))

    def _handle(self, fd):
        try:
            return self._handles[fd]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None

    def poll(self, timeout=None):
        """Waits up to `timeout` seconds (None: for ever) and returns a list of (fd, events)."""
        self._open()
        if timeout is None:
            end, wait_ns = None, bell.NEVER
        else:
            wait_ns = min(max(math.ceil(timeout * 1e9), 0), bell.NEVER - 1)
            end = time.monotonic_ns() + wait_ns
        seconds = -1 if timeout is None else min(wait_ns / 1e9, threading.TIMEOUT_MAX)
        if not self._driving.acquire(timeout=seconds):
            return []  # another thread has been in `poll` all the time, and took what came
        try:
            while True:
                if end is not None and wait_ns > 0:
                    wait_ns = max(end - time.monotonic_ns(), 0)
                got = self._poll_once(wait_ns)
                # After a signal Python has run its handlers by now. One that raised has left this function.
                if got != -errno.EINTR:
                    break
            if got == bell.E_CLOSED or got == bell.E_STALE:
                raise ValueError("I/O operation on closed doorbell")
            taken = memoryview(self._events)[: bell.check(got) * bell.EVENT.size]
            # CLOSED: closed behind our back. The kernel's epoll is silent about it, and so are we.
            return [(fd, ready) for _, fd, ready, _, _ in bell.EVENT.iter_unpack(taken) if not ready & bell.CLOSED]
        finally:
            self._driving.release()

    def _poll_once(self, wait_ns):
        capacity = max(len(self._handles), 1)
        if len(self._events) < capacity * bell.EVENT.size:
            self._events = bytearray(2 * capacity * bell.EVENT.size)
        capacity = len(self._events) // bell.EVENT.size
        buffer = (ctypes.c_char * len(self._events)).from_buffer(self._events)
        poll = bell.bell_poll_now if wait_ns == 0 else bell.bell_poll
        return poll(self._open(), 0, buffer, capacity, wait_ns)


class DoorbellSelector(selectors.BaseSelector):
    """Uses nothing of `selectors` but what is documented."""

    _selector_cls = Poller

    def __init__(self):
        self._keys = {}  # fd -> SelectorKey
        self._map = _Map(self)
        self._selector = self._selector_cls()

    def fileno(self):
        return self._selector.fileno()

    def get_map(self):
        return self._map

    def register(self, fileobj, events, data=None):
        interest = _interest(events)
        fd = self._fd(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        key = selectors.SelectorKey(fileobj, fd, events, data)
        # First the key: another thread may be told of the fd before we return.
        self._keys[fd] = key
        try:
            self._selector.register(fd, interest)
        except BaseException:
            self._keys.pop(fd, None)
            raise
        return key

    def unregister(self, fileobj):
        key = self._keys.pop(self._registered(fileobj).fd)
        try:
            self._selector.unregister(key.fd)
        except OSError:
            pass  # the fd was closed before
        return key

    def modify(self, fileobj, events, data=None):
        key = self._registered(fileobj)
        if events != key.events:
            try:
                self._selector.modify(key.fd, _interest(events))
            except BaseException:
                self.unregister(fileobj)
                raise
        key = key._replace(events=events, data=data)
        self._keys[key.fd] = key
        return key

    def select(self, timeout=None):
        ready = []
        for fd, bits in self._selector.poll(timeout):
            events = 0
            if bits & ~(bell.READ | bell.RDHUP):
                events |= selectors.EVENT_WRITE
            if bits & ~bell.WRITE:
                events |= selectors.EVENT_READ
            key = self._keys.get(fd)
            if key and events & key.events:
                ready.append((key, events & key.events))
        return ready

    def close(self):
        self._selector.close()
        self._keys.clear()
        self._map = None

    def _registered(self, fileobj):
        try:
            return self._keys[self._fd(fileobj)]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def _fd(self, fileobj):
        """The fd of a file object; also of a registered one that was closed meanwhile."""
        try:
            fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
            if fd >= 0:
                return fd
        except (AttributeError, TypeError, ValueError):
            pass
        for key in list(self._keys.values()):
            if key.fileobj is fileobj:
                return key.fd
        raise ValueError(f"Invalid file object or descriptor: {fileobj!r}")


class _Map(Mapping):
    """What get_map() returns: file objects and fds to keys."""

    def __init__(self, selector):
        self._selector = selector

    def __len__(self):
        return len(self._selector._keys)

    def __getitem__(self, fileobj):
        return self._selector._registered(fileobj)

    def __iter__(self):
        return iter(self._selector._keys)


def _interest(events):
    if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
        raise ValueError(f"Invalid events: {events!r}")
    return (bell.READ if events & selectors.EVENT_READ else 0) | (bell.WRITE if events & selectors.EVENT_WRITE else 0)


# A forked child gets kernel objects of its own for every poller that is alive.

_pollers = weakref.WeakSet()
_forking = []  # the pollers that are held still while os.fork() runs


def _before_fork():
    for poller in list(_pollers):
        poller._changing.acquire()
        if poller._bell is not None:
            bell.bell_before_fork(poller._bell)
        _forking.append(poller)


def _after_fork_parent():
    while _forking:
        poller = _forking.pop()
        if poller._bell is not None:
            bell.bell_after_fork_parent(poller._bell)
        poller._changing.release()


def _after_fork_child():
    while _forking:
        poller = _forking.pop()
        if poller._bell is not None:
            bell.bell_after_fork_child(poller._bell, 0)
        poller._no_driver()  # the thread that was in `poll` does not exist here
        poller._changing.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_parent, after_in_child=_after_fork_child
)
