"""Rounds: who is measured when. What has been measured is kept after each pass, so that nothing is lost with what
follows; a proxy that cannot do something gets a reason in place of a figure."""

import json
import os
import platform
import random
import subprocess
import time
from pathlib import Path

from peers import LOAD_CORE, PROXY_CORE, SECONDARY, Failed, family, finished, pss, say, sizes, version
from scenarios import EXTRA, FULL, ONCE, QUICK, SCENARIOS


def chosen(options):
    """The scenarios of this run."""
    if options.only:
        return [scenario for scenario in SCENARIOS if scenario.key in options.only]
    if options.smoke:
        return [scenario for scenario in SCENARIOS if scenario.when != EXTRA or "h2" in scenario.key]
    wanted = (QUICK, "only-quick") if options.quick else (QUICK, FULL, ONCE)
    return [scenario for scenario in SCENARIOS if scenario.when in wanted]


class Session:
    """One run of the comparison and what it has found so far."""

    def __init__(self, options, proxies, tool, certs, scratch, keep):
        self.options, self.proxies, self.tool, self.certs, self.scratch = options, proxies, tool, certs, scratch
        self.keep = keep
        self.failures = {}
        # Seconds that a pass has taken.
        self.longest = 0.0
        self.results = {
            "date": time.strftime("%Y-%m-%d"), "machine": machine(), "seconds": options.seconds,
            "proxies": [{"name": proxy.name, "product": proxy.product, "variant": proxy.variant, "kind": proxy.kind}
                        for proxy in proxies],
            "scenarios": [scenario.key for scenario in chosen(options)],
            "rounds": {}, "reasons": {}, "facts": {}, "limits": {}, "passes": 0,
        }

    def everything(self):
        work = chosen(self.options)
        fixed = [scenario for scenario in work if scenario.how == "steady" and scenario.when != ONCE]
        heavy = [scenario for scenario in work if scenario not in fixed]
        say("starts")
        self.facts()
        self.limits()
        for number in range(max(self.options.rounds, self.options.heavy_rounds)):
            if number < self.options.rounds and fixed and self.worth_another(number):
                say(f"round {number + 1}")
                self.steadily(fixed)
            if number < self.options.heavy_rounds and heavy:
                say(f"round {number + 1} of what takes long")
                self.heavily(heavy)
        return self.results

    def worth_another(self, number):
        """Whether a further pass still ends within the time."""
        left = self.options.minutes * 60 - (time.monotonic() - self.options.began)
        return number == 0 or left > self.longest

    def takes_part(self, scenario, proxy):
        if proxy.broken or (scenario.tls and proxy.kind == "relay"):
            return False
        if proxy.variant and proxy.variant != scenario.tuned:
            return False
        if proxy.product in scenario.spared:
            self.reason(scenario, proxy, scenario.spared[proxy.product])
            return False
        if not scenario.everybody and proxy.product in SECONDARY and not self.options.only:
            return False
        # Whoever has failed twice cannot do it.
        return self.failures.get((scenario.key, proxy.name), 0) < 2

    def participants(self, scenario):
        order = [proxy for proxy in self.proxies if self.takes_part(scenario, proxy)]
        random.shuffle(order)
        return order

    def steadily(self, scenarios):
        """One window for each; all proxies run, and those whose turn it is not rest."""
        began = time.monotonic()
        timing = ["--warm", str(self.options.warm), "--seconds", str(self.options.seconds)]
        # A smoke run asks whether it works at all, however busy the machine.
        tries = 3 if self.options.smoke else 1
        for scenario in scenarios:
            for proxy in self.participants(scenario):
                self.attempt(scenario, proxy, lambda: self.window(scenario, proxy, timing), tries)
        for proxy in self.proxies:
            proxy.stop()
        self.longest = max(self.longest, time.monotonic() - began)
        self.results["passes"] += 1
        self.save()

    def window(self, scenario, proxy, timing):
        proxy.start()
        return proxy.load(self.tool, scenario.arguments(proxy.product, self.options.smoke) + timing, scenario.tls)

    def heavily(self, scenarios):
        """Everybody alone and started for it: memory and storms leave traces in a process."""
        for scenario in scenarios:
            say(scenario.rows[0].title)
            for proxy in self.participants(scenario):
                self.attempt(scenario, proxy, lambda: self.alone(scenario, proxy), 3 if self.options.smoke else 1)
                proxy.stop()
            self.save()

    def alone(self, scenario, proxy):
        proxy.start()
        words = scenario.arguments(proxy.product, self.options.smoke)
        if scenario.how == "storm":
            return self.storm(scenario, proxy, words)
        if scenario.how == "steady":
            words += ["--warm", str(self.options.warm), "--seconds", str(max(self.options.seconds, 0.1))]
        return proxy.load(self.tool, words, scenario.tls)

    def storm(self, scenario, proxy, words):
        """Beside the storm somebody else uses tunnels that have long been open."""
        steady = "echo --size 64 --connections 4 --rate 200 --warm 0.3 --seconds 60 --until-eof".split()
        bystander = proxy.loading(self.tool, steady, scenario.tls, stdin=subprocess.PIPE)
        try:
            # Until its tunnels are open and warm.
            time.sleep(0.1 if self.options.smoke else 0.6)
            # The storm itself yields to it, so that what is seen is the proxy's doing.
            figures = finished(proxy.loading(self.tool, words, scenario.tls, stdin=subprocess.DEVNULL,
                                             preexec_fn=lambda: os.nice(10)))
        finally:
            if bystander.poll() is None:
                time.sleep(0.4)
        figures["bystander"] = finished(bystander)
        return figures

    def attempt(self, scenario, proxy, work, tries):
        try:
            figures = work()
            self.results["rounds"].setdefault(scenario.key, {}).setdefault(proxy.name, []).append(figures)
            self.results["reasons"].get(scenario.key, {}).pop(proxy.product, None)
        except (Failed, OSError, ValueError, KeyError) as problem:
            if tries > 1 and not proxy.broken:
                return self.attempt(scenario, proxy, work, tries - 1)
            say(f"{proxy.name}, {scenario.key}: {problem}")
            at = (scenario.key, proxy.name)
            self.failures[at] = self.failures.get(at, 0) + 1
            if proxy.name not in self.results["rounds"].get(scenario.key, {}):
                self.reason(scenario, proxy, str(problem))
            if proxy.process is not None and proxy.process.poll() is not None:
                proxy.stop()

    def reason(self, scenario, proxy, text):
        name = proxy.product + (f", {proxy.variant}" if proxy.variant else "")
        self.results["reasons"].setdefault(scenario.key, {})[name] = text

    def facts(self):
        """How long a start takes, what a fresh process needs, how large the program is."""
        facts = self.results["facts"]
        plain = [proxy for proxy in self.proxies if not proxy.variant]
        for _ in range(1 if self.options.smoke or self.options.quick else 3):
            started = []
            for proxy in plain:
                fact = facts.setdefault(proxy.name, {"start_ms": [], "pss_kib": []})
                try:
                    fact["start_ms"].append(proxy.start())
                    started.append((proxy, fact))
                except Failed as problem:
                    fact["broken"] = str(problem)
            time.sleep(0 if self.options.smoke else 1.0)
            for proxy, fact in started:
                fact["pss_kib"].append(pss(family(proxy.process.pid)))
                proxy.stop()
        for proxy in plain:
            facts[proxy.name]["version"] = version(proxy.kind, proxy.binary)
            facts[proxy.name]["binary_mib"], facts[proxy.name]["stripped_mib"] = sizes(proxy.binary, self.scratch)

    def limits(self):
        pin = [] if self.options.smoke else ["taskset", "-c", PROXY_CORE]
        count = "20" if self.options.smoke else "2000"
        for name, kx in (("handshake", "x25519"), ("handshake-hybrid", "hybrid")):
            words = [*pin, self.tool, "tls-limit", "--certs", self.certs, "--count", count, "--kx", kx]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            self.results["limits"][name] = json.loads(done.stdout)["cpu_us_per_unit"]

    def save(self):
        self.keep(self.results)


def backend(tool, addresses, pinned):
    pin = ["taskset", "-c", LOAD_CORE] if pinned else []
    words = [*pin, tool, "backend", "--listen", ",".join(addresses)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    for _ in addresses:
        process.stdout.readline()
    return process


def machine():
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {cpu}, Linux {platform.release()}"
