"""What the scripts share that measure brokers: how one is started and looked at, what a ratio is, where results go."""

import datetime
import json
import mmap
import os
import platform
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEVER = str(2**63 - 1)
RECORD_BYTES = 1024
MB = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def die(why):
    say(f"{Path(sys.argv[0]).name}: {why}")
    sys.exit(2)


# --- what is needed ---------------------------------------------------------------------------------------------------


def client(name):
    """A client of scripts/clients, built if need be."""
    built = subprocess.run([ROOT / "scripts/clients/build", name], stdout=subprocess.PIPE, text=True)
    if built.returncode:
        sys.exit(2)
    return built.stdout.strip()


class Driver:
    """workloads/brokers/NAME.toml: how to run a broker. The same file that highwater-bench reads."""

    def __init__(self, name, settings):
        self.name = name
        text = (ROOT / f"workloads/brokers/{name}.toml").read_text()
        self.file = tomllib.loads(text)
        homes = [self.variable(home) for home in self.file["home"]]
        homes = [ROOT / home for home in homes if home]
        found = [home for home in homes if (home / self.file["marker"]).exists()]
        if not found:
            die(f"{self.file['title']} is not installed: {self.file['missing']}")
        self.home = found[0]
        self.settings = {**flat(self.file.get("settings", {})), **settings}

    @staticmethod
    def variable(home):
        return os.environ.get(home[1:]) if home.startswith("$") else home

    def words(self, words, place):
        """A command with its placeholders filled; `{settings}` becomes words of its own."""
        out = []
        for word in words:
            if word == "{settings}":
                form = self.file.get("setting", ["{name}={value}"])
                for name, value in self.settings.items():
                    out += [part.replace("{name}", name).replace("{value}", value) for part in form]
            else:
                out.append(fill(word, place))
        return out

    def version(self):
        place = {"home": str(self.home)}
        said = subprocess.run(self.words(self.file["version"], place), capture_output=True, text=True).stdout.strip()
        return said.splitlines()[0] if said else "unknown"


def flat(table, prefix=""):
    out = {}
    for name, value in table.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{name}."))
        else:
            out[f"{prefix}{name}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return out


def fill(text, place):
    return re.sub(r"\{(home|data|work|config|port2|port)\}", lambda m: place.get(m[1], m[0]), text)


def settings_of(words, names):
    """BROKER:NAME=VALUE words, by broker."""
    extra = {name: {} for name in names}
    for word in words:
        match = re.fullmatch(r"([^:=]+):([^=]+)=(.*)", word)
        if not match or match[1] not in extra:
            die(f"--set {word} is not BROKER:NAME=VALUE")
        extra[match[1]][match[2]] = match[3]
    return extra


def unwind_on_signals():
    """A signal unwinds like an exception: what was started is stopped, what was measured is written."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))


# --- a broker ---------------------------------------------------------------------------------------------------------


class Broker:
    """A started broker in a process group of its own, killed with all its files when the block ends."""

    def __init__(self, driver, scratch):
        self.driver, self.scratch = driver, scratch
        self.process = None

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def start(self):
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self.scratch))
        self.data = self.folder / "data"
        self.data.mkdir()
        ports = free_ports()
        config = self.folder / self.driver.file.get("config_file", "none")
        place = {"home": str(self.driver.home), "data": str(self.data), "work": str(self.folder), "config": str(config),
                 "port": str(ports[0]), "port2": str(ports[1])}
        if "config" in self.driver.file:
            lines = "\n".join(f"{name}={value}" for name, value in self.driver.settings.items())
            config.write_text(fill(self.driver.file["config"].replace("{settings}", lines), place))
        self.log = self.folder / "broker.log"
        with self.log.open("ab") as log:
            for command in self.driver.file.get("prepare", []):
                subprocess.run(self.driver.words(command, place), stdout=log, stderr=log, check=True)
            command = self.driver.words(self.driver.file["start"], place)
            # If this script is killed, the kernel kills the broker.
            if shutil.which("setpriv"):
                command = ["setpriv", "--pdeathsig", "KILL", *command]
            self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        self.address = f"127.0.0.1:{ports[0]}"
        self.wait_listening(ports[0])
        return self

    def wait_listening(self, port):
        for _ in range(1200):
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        die(f"{self.driver.name} did not start:\n" + "\n".join(self.log.read_text().splitlines()[-12:]))

    def cpu(self):
        """User and system time of the group so far, and its largest resident set."""
        seconds, rss = 0.0, 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid:
                    seconds += (int(fields[11]) + int(fields[12])) / TICKS
                    status = (stat.parent / "status").read_text()
                    rss += int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024
            except (OSError, TypeError):
                continue  # gone while we looked, or a kernel thread
        return seconds, rss

    def written_bytes(self):
        """What it had the devices write so far, or left dirty in the page cache."""
        return int(re.search(r"^write_bytes: (\d+)", Path(f"/proc/{self.process.pid}/io").read_text(), re.M)[1])

    def drain(self, since):
        """Flushes what is dirty, waits until the broker has written nothing for a tenth of a second, and flushes that. Seconds from
        the instant `since` until the last flush that had something to do: what a broker writes behind its acks, by itself and past
        the page cache, is part of what they cost."""
        sync(self.folder)
        ended = last = time.monotonic()
        written, wrote = self.written_bytes(), False
        while time.monotonic() - last < 0.1 and time.monotonic() - ended < 30:
            time.sleep(0.01)
            if (so_far := self.written_bytes()) != written:
                last, written, wrote = time.monotonic(), so_far, True
        if wrote:
            begun = time.monotonic()
            sync(self.folder)
            return last - since + time.monotonic() - begun
        return ended - since

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)


def free_ports():
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def touch_memory(folder, size):
    """A virtual machine's first touch of a page costs far more than the write: nobody measured here shall pay for it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, chunk = folder / f"{os.getpid()}-warm", os.urandom(MB)
    try:
        with path.open("wb") as file:
            for _ in range(size // MB):
                file.write(chunk)
    finally:
        path.unlink(missing_ok=True)
    sync(folder)


def sync(folder):
    """Only the file system in question: a whole machine's sync may wait for somebody else's disk."""
    subprocess.run(["sync", "-f", str(folder)], check=True)


def drop_page_cache():
    """Needs root. What is dirty stays, so that it is flushed first."""
    Path("/proc/sys/vm/drop_caches").write_text("3")


def device_flushes(folder, seconds=1.0, goes_on=None, every=0.0, took=None):
    """Milliseconds of each of many overwrites of 4 KiB that are durable when they return: the least that a durable ack costs.

    For so many seconds, or as long as `goes_on()`; into the list `took`, if one is given. One after the other, `every` seconds apart, `O_DIRECT` and `RWF_DSYNC`, over blocks that were written to before, as `highwater doctor` does it;
    through the page cache where a file system refuses direct I/O."""
    block_bytes, region_bytes = 4096, 4 << 20
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-flush"
    try:
        # Content that compresses would flatter a device that compresses.
        path.write_bytes(os.urandom(region_bytes))
        sync(folder)
        try:
            file = os.open(path, os.O_RDWR | os.O_DIRECT)
        except OSError:
            file = os.open(path, os.O_RDWR)
        try:
            with mmap.mmap(-1, block_bytes) as block:
                block.write(os.urandom(block_bytes))
                took, begun = [] if took is None else took, time.perf_counter()
                goes_on = goes_on or (lambda: time.perf_counter() - begun < seconds)
                while not took or goes_on():
                    before = time.perf_counter()
                    os.pwritev(file, [block], len(took) * block_bytes % region_bytes, os.RWF_DSYNC)
                    took.append(1e3 * (time.perf_counter() - before))
                    if every:
                        time.sleep(every)
                return took
        finally:
            os.close(file)
    finally:
        path.unlink(missing_ok=True)


class FlushProbe:
    """The device's own flushes beside what runs: one a hundredth of a second, in a thread, from here until it is asked."""

    EVERY_S = 0.01

    def __init__(self, folder):
        self.ended = threading.Event()
        self.took, self.first = [], 0
        self.thread = threading.Thread(target=self.run, args=(folder,), daemon=True)
        self.thread.start()

    def run(self, folder):
        device_flushes(folder, goes_on=lambda: not self.ended.is_set(), every=self.EVERY_S, took=self.took)

    def count_from_here(self):
        self.first = len(self.took)

    def quantiles(self):
        """Ends it: milliseconds by name, as on an open loop: those that would have begun while one took long count from then."""
        self.ended.set()
        self.thread.join()
        every = 1000 * self.EVERY_S
        took = sorted(one - late * every for one in self.took[self.first:] for late in range(int(one // every) + 1))
        return {name: took[min(len(took) - 1, int(len(took) * part))]
                for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1))}


def machine_cpu():
    """All processors, idle and waiting not counted."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    ticks = [int(field) for field in fields]
    return sum(ticks[place] for place in (0, 1, 2, 5, 6)) / TICKS


def started(command):
    """A client that runs on; `line_of` has what it prints."""
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def line_of(process, broker):
    """The line of JSON that a client prints at its end."""
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{broker.driver.name}: {errors.strip()}\n" + "\n".join(broker.log.read_text().splitlines()[-5:]))
    return json.loads(output)


def printed(command, broker):
    """The line of JSON that a client prints."""
    return line_of(started(command), broker)


# --- results ----------------------------------------------------------------------------------------------------------


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


# So many pairs it takes for a 95 % bootstrap interval of the median to mean what it says: with fewer it is the range of all pairs,
# which holds the true median 94 times in 100 with five, 88 with four and 75 with three.
FEWEST_PAIRS = 6
INTERVAL = f"95 % bootstrap interval; of fewer than {FEWEST_PAIRS} the least and the most"


def ratio(pairs):
    """Median of the ratios, and a 95 % bootstrap interval of it; with fewer than `FEWEST_PAIRS` pairs their least and most."""
    ratios = [a / b for a, b in pairs]
    if len(ratios) < FEWEST_PAIRS:
        return statistics.median(ratios), min(ratios), max(ratios)
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), medians[50], medians[1949]


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def environment(drivers=()):
    def first(path, pattern):
        found = re.search(pattern, Path(path).read_text(), re.M)
        return found[1].strip() if found else "unknown"

    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": first("/proc/cpuinfo", r"^model name\s*:(.*)$"),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "commit": commit or "unknown",
        "brokers": {driver.name: {"version": driver.version(), "settings": driver.settings} for driver in drivers},
    }


def new_folder(results, name):
    base = f"{now():%Y-%m-%d}-{name}"
    number = 1
    while (folder := results / (base if number == 1 else f"{base}-{number}")).exists():
        number += 1
    folder.mkdir(parents=True)
    return folder
