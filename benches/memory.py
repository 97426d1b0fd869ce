"""Memory as on a machine that has run for a while.

The host of a virtual machine often takes back what its guest does not use. The next touch of such a page costs several
times what it costs on a machine of its own, and a broker whose log grows touches fresh pages all the time: a benchmark
then measures the host. `kept` shows whether that is so and, where it may, keeps the host from it while something is measured.
"""
import contextlib, mmap, sys, time

REPORTING = "/sys/module/page_reporting/parameters/page_reporting_order"
# No block of free pages is as large as this one, so none is reported to the host.
NEVER = "11"
PIECE = 1 << 20
# What is left to everybody else while the rest is touched, in bytes.
SPARED = 1 << 30
# From which factor on fresh memory is called expensive.
EXPENSIVE = 1.8


@contextlib.contextmanager
def kept():
    """While this is entered, free memory stays with the machine, if the caller may say so to the kernel (Linux, root).
    All of it is touched first. What was done, and what a first touch costs, is told on standard error."""
    before = order()
    if before is not None and set_order(NEVER):
        try:
            touch(free_bytes() - SPARED)
            tell("the host is kept from taking free memory back")
            yield
        finally:
            set_order(before)
    else:
        tell("the host may take free memory back" if before is not None else "")
        yield


def tell(what):
    size = min(256 * PIECE, free_bytes() // 2)
    first, again = touch(size), touch(size)
    cost = f"the first touch of memory takes {first / size * 2**30:.2f} s/GiB, the next {again / size * 2**30:.2f}"
    if first > EXPENSIVE * again:
        cost += ": what fills fresh memory is measured slower than it is"
    print("; ".join(filter(None, (what, cost))), file=sys.stderr)


def touch(size):
    """Touches so many bytes of memory and gives them back; returns the seconds that it took."""
    size = max(size // PIECE, 1) * PIECE
    piece = bytes(PIECE)
    since = time.monotonic()
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for at in range(0, size, PIECE):
            memory[at:at + PIECE] = piece
    return time.monotonic() - since


def free_bytes():
    """What no process and no cache uses, or what this group of processes may still take, if that is less."""
    with open("/proc/meminfo") as lines:
        free = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}["MemFree"]
    try:
        with open("/sys/fs/cgroup/memory.max") as most, open("/sys/fs/cgroup/memory.current") as now:
            return min(free, int(most.read()) - int(now.read()))
    except (OSError, ValueError):
        return free


def order():
    try:
        with open(REPORTING) as parameter:
            return parameter.read().strip()
    except OSError:
        return None


def set_order(value):
    try:
        with open(REPORTING, "w") as parameter:
            parameter.write(value)
        return True
    except OSError:
        return False
