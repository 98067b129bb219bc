"""One half of a sandboxed run. Started by path with `python -I -S`; imports nothing of this project.

    sandbox_child.py program READ WRITE SECONDS BYTES    what a model wrote; answers calls
    sandbox_child.py tests   READ WRITE SECONDS BYTES    the tests; calls, compares, gives the verdict on stdout

The two are separate processes joined by two pipes: the program never holds the tests, the expected values or
the pipe of the verdict, and what it returns arrives as plain JSON, so neither patched built-ins nor objects
that equal everything reach a comparison. The job comes on stdin as JSON. Both lock themselves in first.
"""

import ctypes
import json
import os
import resource
import struct
import sys

MAX_REPLY = 1 << 20  # bytes of one call or result
READ_FILE, READ_DIR = 1 << 2, 1 << 3  # landlock_access_fs
LANDLOCK_RIGHTS = {1: 13, 2: 14}  # ABI -> number of known file rights; from ABI 3 on 15
# System calls refused: new processes and programs, signals to others, sockets, other ways around the rest.
REFUSED = {
    "x86_64": (
        0xC000003E,
        (
            *(56, 57, 58, 59, 322, 435),  # clone, fork, vfork, execve, execveat, clone3
            *(62, 129, 200, 297, 424),  # kill, rt_sigqueueinfo, tkill, rt_tgsigqueueinfo, pidfd_send_signal
            *(41, 42, 49, 53, 425),  # socket, connect, bind, socketpair, io_uring_setup
            *(101, 310, 311, 438, 272, 308, 165, 321),  # ptrace, process_vm_*, pidfd_getfd, unshare, setns...
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(220, 221, 281, 435),
            *(129, 138, 130, 240, 424),
            *(198, 203, 200, 199, 425),
            *(117, 270, 271, 438, 97, 268, 40, 280),
        ),
    ),
}


def limit(seconds, size):
    """Processor time, memory, no files written, no core, no processes."""
    for what, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, size, size),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 32, 32),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),  # root is exempt, hence also the filter of system calls
    ):
        resource.setrlimit(what, (soft, hard))
    return "limits"


def landlock(libc):
    """Reads of the standard library only (without installed packages); nothing is written. Linux 5.13."""
    abi = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return None
    known = (1 << LANDLOCK_RIGHTS.get(abi, 15)) - 1
    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped; older kernels take less.
    attr = struct.pack("QQQ", known, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)[: 24 if abi >= 6 else 16]
    if abi < 4:
        attr = attr[:8]
    ruleset = libc.syscall(444, attr, ctypes.c_size_t(len(attr)), 0)
    if ruleset < 0:
        return None
    library = os.path.dirname(os.__file__)
    read = {"/etc/ld.so.cache": READ_FILE, "/dev/null": READ_FILE, "/dev/urandom": READ_FILE}
    read[library] = READ_DIR
    for entry in os.scandir(library):
        if entry.name not in ("site-packages", "dist-packages"):
            read[entry.path] = READ_FILE | READ_DIR if entry.is_dir() else READ_FILE
    with open("/proc/self/maps") as maps:  # directories of shared libraries that extension modules link to
        shared = {os.path.dirname(line.split()[-1]) for line in maps if ".so" in line}
    for folder in shared:
        if not folder.startswith(library):
            for entry in os.scandir(folder):
                if ".so" in entry.name:
                    read[entry.path] = READ_FILE
    for path, rights in read.items():
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = struct.pack("=Qi", rights, handle)
        if not os.path.isdir(path):
            rule = struct.pack("=Qi", rights & ~READ_DIR, handle)
        libc.syscall(445, ruleset, 1, rule, 0)
        os.close(handle)
    done = libc.syscall(446, ruleset, 0)
    os.close(ruleset)
    return "landlock" if done == 0 else None


def seccomp(libc):
    """A filter that answers REFUSED with EPERM; another architecture's or x32 calls end the process."""
    if os.uname().machine not in REFUSED:
        return None
    arch, numbers = REFUSED[os.uname().machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, deny, kill = 0x7FFF0000, 0x00050001, 0x80000000
    program = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, kill), (load, 0, 0, 0)]
    program += [(at_least, 0, 1, 0x40000000), (give, 0, 0, kill)]
    for number in numbers:
        program += [(equal, 0, 1, number), (give, 0, 0, deny)]
    program.append((give, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    return "seccomp" if libc.prctl(22, 2, header, 0, 0) == 0 else None  # PR_SET_SECCOMP, FILTER


def lock_in(seconds, size):
    """Applies what this system offers; its name, for example "limits+landlock+seccomp"."""
    parts = [limit(seconds, size)]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no other process of this user reads its memory
        if libc.prctl(38, 1, 0, 0, 0) == 0:  # PR_SET_NO_NEW_PRIVS
            parts += [part for part in (landlock(libc), seccomp(libc)) if part]
    return "+".join(parts)


def encode(value):
    """Plain JSON for the built-in types and what derives from them; anything else arrives as nothing known."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, str):
        if isinstance(value, kind):
            return [kind.__name__, kind.__str__(value) if kind is str else int.__repr__(value)]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [encode(item) for item in kind.__iter__(value)]]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(item)] for key, item in dict.items(value)]]
    return ["other", ""]


class Other:
    """A value that is equal to nothing."""

    __hash__ = None

    def __eq__(self, _):
        return False


def decode(form):
    if form is None or isinstance(form, bool):
        return form
    kind, body = form
    if kind in ("list", "tuple", "set", "frozenset"):
        make = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind]
        return make(decode(item) for item in body)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in body}
    return {"int": int, "str": str, "float": float.fromhex, "other": lambda _: Other()}[kind](body)


class Ended(Exception):
    """The other side has closed its pipe."""


def receive(source):
    line = source.readline(MAX_REPLY + 1)
    if not line.endswith(b"\n"):
        raise Ended("too long" if len(line) > MAX_REPLY else "ended")
    return json.loads(line)


def send(target, value):
    target.write(json.dumps(value).encode() + b"\n")
    target.flush()


def run_program(job, source, target):
    namespace = {"__name__": "candidate"}
    exec(compile(job["program"], "<program>", "exec"), namespace)
    called = namespace[job["entry_point"]]
    while True:
        arguments = decode(receive(source))
        try:
            send(target, {"value": encode(called(*arguments))})
        except Exception as error:
            send(target, {"raised": type(error).__name__})


def load_tests(job, source, target):
    """The tests, as a function that raises when they fail."""

    class Raised(Exception):
        """The program raised where the tests called it."""

    def candidate(*arguments):
        send(target, encode(arguments))
        answer = receive(source)
        if "raised" in answer:
            raise Raised(str(answer["raised"])[:80])
        return decode(answer["value"])

    # The prompt's own helpers are for the tests to use; its last function has only a docstring.
    namespace = {"__name__": "tests"}
    exec(compile(job["prompt"], "<prompt>", "exec"), namespace)
    namespace[job["entry_point"]] = candidate
    exec(compile(job["test"], "<test>", "exec"), namespace)
    check = namespace["check"]
    return lambda: check(candidate)


def main():
    role, read, write, seconds, size = sys.argv[1], *map(int, sys.argv[2:])
    job = json.loads(sys.stdin.buffer.read())
    import collections  # noqa: E401, F401

    isolation = lock_in(seconds, size)
    source, target = os.fdopen(read, "rb"), os.fdopen(write, "wb")
    if role == "program":
        send(target, {"ready": isolation})
        run_program(job, source, target)
        return
    check = load_tests(job, source, target)  # an exception here ends the process: no verdict, an error
    verdict = {"outcome": "error", "why": "the program's process did not start", "isolation": isolation}
    try:
        ready = receive(source)["ready"]
        if ready != isolation:
            raise Ended(f"isolated otherwise: {ready}")
    except Exception as error:
        verdict["why"] += f" ({type(error).__name__})"
    else:
        try:
            check()
            verdict |= {"outcome": "success", "why": ""}
        except Exception as error:
            verdict |= {"outcome": "failure", "why": type(error).__name__}
    print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
