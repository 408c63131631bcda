"""What is measured: scenarios with the rows they give, who takes part, and the budgets that rows are held against."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

# When a scenario runs. `quick`: in --quick and the full run, every round. `full`: in the full run, every round.
# `once`: in the full run, in as many rounds as --heavy-rounds says. `extra`: only when named with --only.
QUICK, FULL, ONCE, EXTRA = "quick", "full", "once", "extra"

# Chapters of the report.
CPU, MEMORY, STORM = "cpu", "memory", "storm"


@dataclass
class Row:
    """A line of a table: where its figure stands in what the load tool prints."""

    key: str
    title: str
    unit: str
    value: Callable[[dict], float]
    chapter: str = CPU
    digits: int = 1
    more_is_better: bool = False
    # Informative: no ratio and no judgement.
    plain: bool = False


@dataclass
class Scenario:
    key: str
    words: list
    tls: bool
    when: str = FULL
    rows: list = field(default_factory=list)
    # Which tuned configurations of the peers take part beside the shipped ones: "lean", "big" or none.
    tuned: str = ""
    # steady: everybody runs, a window each; fresh: started for it and stopped after it; storm: fresh, with a bystander.
    how: str = "steady"
    # Peers that matter less (another build, a server with a thread for each tunnel) are left out where it takes long.
    everybody: bool = True
    # Not asked of a peer, and why.
    spared: dict = field(default_factory=dict)
    # Other arguments for a peer; in place of those with the same name.
    instead: dict = field(default_factory=dict)

    def arguments(self, product, smoke):
        words = list(self.words)
        for name, value in self.instead.get(product, {}).items():
            words[words.index(name) + 1] = value
        for name, value in SMOKE.items() if smoke else ():
            if name in words:
                words[words.index(name) + 1] = value
        return words


# In a smoke run nothing is measured; it shows that everything still fits together.
SMOKE = {"--levels": "10,20", "--count": "20", "--rate": "50", "--connections": "5", "--settle": "0.05", "--stalled": "2"}

NO_H2 = {"apache": "has no WebSockets over HTTP/2 set up here", "nginx-debian": "has no WebSockets over HTTP/2"}
THREADS = {"apache": "a thread for each WebSocket: at most 2,000"}


def cpu(one):
    return one["cpu_us_per_unit"]


def steady(key, title, words, tls, when=FULL, **more):
    scenario = Scenario(key, words.split(), tls, when, [Row(key, title, "µs", cpu)], **more)
    return scenario


def echo(size, name, schemes, when, rate, **more):
    made = []
    for scheme in schemes:
        words = f"echo --size {size} --rate {rate}" + (" --connections 4" if size >= 2**20 else "")
        made.append(steady(f"echo-{scheme}-{name}", f"{names(name)} echo, {scheme}", words, scheme == "wss", when, **more))
    return made


def names(name):
    return {"64": "64 B", "1k": "1 KiB", "4k": "4 KiB", "16k": "16 KiB", "1m": "1 MiB"}[name]


def closed(size, name, scheme, when):
    key, connections = f"closed-{scheme}-{name}", 4 if size >= 2**20 else 32
    return Scenario(key, f"echo --size {size} --connections {connections}".split(), scheme == "wss", when, [
        Row(key, f"{names(name)} echo, {scheme}, closed loop of {connections}", "µs", cpu),
        Row(key + "-rate", f"… round trips a second (limited by the load)", "1/s", lambda one: one["rate"], digits=0,
            plain=True, more_is_better=True),
    ])


def idle(key, title, kind, tls, when, levels, **more):
    held = int(levels.split(",")[-1])
    rows = [Row(key, title, "KiB", lambda one: one["kib_per_unit"], MEMORY, 2)]
    if kind == "tunnel":
        rows.append(Row(key + "-cpu", f"… a core's share, {held:,} held and idle", "%",
                        lambda one: one["idle_cpu_share"] * 100, MEMORY, 2))
    words = ["idle", "--kind", kind, "--levels", levels, "--settle", "1.2"]
    return Scenario(key, words, tls, when, rows, how="fresh", **more)


def burst(key, title, tls, when, count):
    mib = lambda what, at: lambda one: one[what][at] / 1024
    return Scenario(key, ["idle", "--levels", str(count), "--settle", "1.2", "--again"], tls, when, [
        Row(key + "-start", f"{title}: before", "MiB", lambda one: one["start_kib"] / 1024, MEMORY, plain=True),
        Row(key + "-first", "… first peak", "MiB", mib("peak_kib", 0), MEMORY),
        Row(key + "-left", "… after they have gone", "MiB", mib("after_kib", 0), MEMORY),
        Row(key + "-second", "… second peak", "MiB", mib("peak_kib", 1), MEMORY),
        Row(key + "-after", "… after these have gone", "MiB", mib("after_kib", 1), MEMORY),
        Row(key + "-growth", "… second peak ÷ first", "", lambda one: one["peak_kib"][1] / one["peak_kib"][0], MEMORY, 3,
            plain=True),
        Row(key + "-kept", "… after the first burst ÷ before", "", lambda one: one["after_kib"][0] / one["start_kib"],
            MEMORY, 2, plain=True),
    ], how="fresh", spared=THREADS, everybody=False)


def storm(key, title, more, tls, when):
    return Scenario(key, f"sessions --count 8000 --connections 128 {more}".split(), tls, when, [
        Row(key, f"{title}: CPU for each session", "µs", cpu, STORM),
        Row(key + "-rate", "… sessions a second", "1/s", lambda one: one["rate"], STORM, 0, more_is_better=True),
        Row(key + "-p99", "… until one can be used, p99", "ms", lambda one: one["connect_us"]["p99"] / 1000, STORM),
        Row(key + "-failed", "… failed", "", lambda one: one["failed"], STORM, 0, plain=True),
        Row(key + "-bystander", "… a bystander's echo meanwhile, p99", "ms",
            lambda one: one["bystander"]["latency_us"]["p99"] / 1000, STORM, 2),
    ], how="storm", everybody=False)


def fanout(key, count, rate, when):
    words = f"fanout --size 256 --connections {count} --rate {rate}"
    return steady(key, f"delivery of a 256 B message to {count:,}, wss", words, True, when,
                  spared=THREADS if count > 2000 else {}, everybody=count <= 2000)


def p99(which):
    return lambda one: one[which]["p99"]


STALLED = [
    Row("stalled", "64 B echo, ws, beside 100 readers that have stopped", "µs", cpu),
    Row("stalled-without-p99", "… p99 without them, from the intended time", "µs", p99("latency_without_us"), digits=0,
        plain=True),
    Row("stalled-p99", "… p99 with them", "µs", p99("latency_us"), digits=0, plain=True),
    Row("stalled-ratio", "… p99 with them ÷ without", "",
        lambda one: one["latency_us"]["p99"] / max(1, one["latency_without_us"]["p99"]), digits=2, plain=True),
]

MULTIPLEXED = [
    Row("idle-h2", "idle HTTP/2 connection with one tunnel", "KiB", lambda one: one["kib_per_unit"], MEMORY, 2),
    Row("idle-h2-10", "… each further tunnel, up to 10", "KiB", lambda one: one["kib_per_further_10"], MEMORY, 2),
    Row("idle-h2-100", "… each further tunnel, up to 100", "KiB", lambda one: one["kib_per_further_100"], MEMORY, 2),
]

FEWER = {"apache": {"--levels": "500,1000,1900"}}
BOTH = ("ws", "wss")

SCENARIOS = [
    *echo(64, "64", BOTH, QUICK, 6000),
    *echo(1024, "1k", BOTH, FULL, 5000, everybody=False),
    *echo(4096, "4k", ("ws",), FULL, 4000, everybody=False),
    *echo(4096, "4k", ("wss",), FULL, 4000),
    *echo(16 * 1024, "16k", BOTH, FULL, 1500, everybody=False, tuned="big"),
    *echo(2**20, "1m", BOTH, FULL, 30, tuned="big", everybody=False),
    steady("echo-h2-64", "64 B echo, wss over HTTP/2, 10 on each connection", "echo --size 64 --rate 5000 --h2", True,
           spared=NO_H2),
    steady("echo-h2-16k", "16 KiB echo, wss over HTTP/2", "echo --size 16384 --rate 1000 --h2", True, EXTRA, spared=NO_H2),
    steady("echo-h2-1m", "1 MiB echo, wss over HTTP/2", "echo --size 1048576 --rate 20 --connections 4 --per 1 --h2", True,
           EXTRA, spared=NO_H2),
    *[closed(size, name, scheme, ONCE if name in ("64", "16k", "1m") else EXTRA)
      for size, name in ((64, "64"), (1024, "1k"), (4096, "4k"), (16 * 1024, "16k"), (2**20, "1m")) for scheme in BOTH],
    steady("session-ws", "ws session", "sessions --rate 400", False, QUICK),
    steady("session-wss", "wss session, full TLS handshake", "sessions --rate 120", True, QUICK),
    steady("session-wss-resumed", "wss session, resumed", "sessions --rate 150 --resume", True),
    steady("session-wss-hybrid", "wss session, X25519MLKEM768", "sessions --rate 100 --kx hybrid", True),
    steady("get-http-1k", "GET 1 KiB, HTTP", "get --path /1k --rate 4000", False),
    steady("get-https-1k", "GET 1 KiB, HTTPS", "get --path /1k --rate 4000", True, QUICK),
    steady("get-http-1m", "GET 1 MiB, HTTP", "get --path /1m --rate 80 --connections 8", False, everybody=False, tuned="big"),
    steady("get-https-1m", "GET 1 MiB, HTTPS", "get --path /1m --rate 80 --connections 8", True, everybody=False,
           tuned="big"),
    Scenario("stalled", "echo --size 64 --rate 4000 --stalled 100".split(), False, FULL, STALLED, everybody=False),
    fanout("fanout-200", 200, 40, EXTRA),
    fanout("fanout-5000", 5000, 2, ONCE),
    idle("idle-ws", "idle tunnel, ws", "tunnel", False, ONCE, "1000,4000,9000", tuned="lean", instead=FEWER),
    idle("idle-wss", "idle tunnel, wss", "tunnel", True, ONCE, "1000,4000,9000", tuned="lean", instead=FEWER),
    idle("idle-ws-quick", "idle tunnel, ws, 3,000 held", "tunnel", False, "only-quick", "500,3000", spared=THREADS),
    idle("idle-wss-quick", "idle tunnel, wss, 3,000 held", "tunnel", True, "only-quick", "500,3000", spared=THREADS),
    Scenario("idle-h2", "idle --kind h2 --h2 --levels 50,200 --settle 1".split(), True, ONCE, MULTIPLEXED, how="fresh", spared=NO_H2),
    idle("silent-tcp", "connection that says nothing", "tcp", False, ONCE, "1000,4000", everybody=False),
    idle("silent-tls", "connection that is silent after the TLS handshake", "tls", True, ONCE, "1000,4000", everybody=False),
    idle("idle-https", "HTTPS connection, kept alive and idle", "keepalive", True, ONCE, "1000,4000", everybody=False),
    burst("burst-ws", "8,000 tunnels, ws", False, EXTRA, 8000),
    burst("burst-wss", "8,000 tunnels, wss", True, ONCE, 8000),
    storm("storm-wss", "storm of 8,000, wss, full", "", True, ONCE),
    storm("storm-wss-resumed", "storm of 8,000, wss, resumed", "--resume", True, ONCE),
    storm("storm-ws", "storm of 8,000, ws", "", False, EXTRA),
]
BY_KEY = {scenario.key: scenario for scenario in SCENARIOS}


def rows(keys):
    """The rows of these scenarios with them, in the order above."""
    return [(scenario, row) for scenario in SCENARIOS if scenario.key in keys for row in scenario.rows]


@dataclass
class Budget:
    """`must` and `moonshot` bound the figure itself, or its ratio to a peer's or a limit's."""

    against: str  # "itself", "best peer", "best OpenSSL peer", "relay", "limits"
    must: float
    moonshot: float
    moonshot_against: str = ""


BUDGETS = {
    "idle-ws": Budget("itself", 1.5, 1.0),
    "idle-wss": Budget("itself", 6.0, 2.5),
    "idle-h2": Budget("itself", 40, 20),
    "idle-h2-10": Budget("itself", 3.0, 1.5),
    "idle-h2-100": Budget("itself", 3.0, 1.5),
    "idle-ws-cpu": Budget("itself", 0.5, 0.1),
    "idle-wss-cpu": Budget("itself", 0.5, 0.1),
    "idle-ws-quick": Budget("itself", 1.5, 1.0),
    "idle-wss-quick": Budget("itself", 6.0, 2.5),
    "echo-ws-64": Budget("best peer", 1.05, 1.05, "relay"),
    "echo-wss-64": Budget("best peer", 0.9, 0.8),
    "echo-wss-4k": Budget("best peer", 0.9, 0.8),
    "echo-wss-1m": Budget("best peer", 1.0, 0.75),
    "session-wss": Budget("best OpenSSL peer", 0.7, 1.25, "limits"),
    "get-https-1k": Budget("best peer", 1.2, 0.9),
    "burst-wss-growth": Budget("itself", 1.1, 1.1),
    "burst-wss-kept": Budget("itself", 1.5, 1.05),
    "burst-ws-growth": Budget("itself", 1.1, 1.1),
    "stalled-ratio": Budget("itself", 1.1, 1.03),
}
OPENSSL = ("nginx", "nginx-debian", "haproxy", "apache")


def explanations():
    """Row → why the gateway loses there; see reasons.txt."""
    found = {}
    for line in (Path(__file__).parent / "reasons.txt").read_text().splitlines():
        key, colon, text = line.partition(": ")
        if colon and not line.startswith("#"):
            found[key.strip()] = text.strip()
    return found
