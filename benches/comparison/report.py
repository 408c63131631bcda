"""From what was measured to Markdown: medians, spreads, ratios, budgets met or missed, reasons."""

import statistics

from scenarios import BUDGETS, CPU, MEMORY, OPENSSL, STORM, explanations, rows


class Report:
    def __init__(self, results):
        self.results = results
        proxies = results["proxies"]
        self.gateways = [proxy["name"] for proxy in proxies if proxy["kind"] == "portcullis"]
        self.products = list(dict.fromkeys(proxy["product"] for proxy in proxies))
        self.peers = [name for name in self.products if name not in self.gateways and name != "relay"]
        self.rows = rows(results["scenarios"])
        self.why = explanations()
        self.notes = []

    def summary(self, scenario, row, name):
        """Median and spread of a row for one proxy, or None."""
        found = self.results["rounds"].get(scenario.key, {}).get(name, [])
        values = sorted(row.value(one) for one in found)
        if not values:
            return None
        quartiles = statistics.quantiles(values, n=4) if len(values) > 2 else [values[0], 0, values[-1]]
        held = all(one.get("sustained", True) and not one.get("failed") for one in found)
        return {"median": statistics.median(values), "low": quartiles[0], "high": quartiles[2], "rounds": len(values),
                "held": held or row.plain}

    def product(self, scenario, row, product):
        """As shipped, and tuned where that took part."""
        tuned = f"{product}/{scenario.tuned}" if scenario.tuned else ""
        return self.summary(scenario, row, product), self.summary(scenario, row, tuned)

    def best(self, scenario, row, among):
        """The better row of the best peer; one that did not hold the rate or had failures does not count."""
        choose = max if row.more_is_better else min
        values = [value["median"] for name in among for value in self.product(scenario, row, name)
                  if value and value["held"]]
        return choose(values) if values else None

    def ratio(self, scenario, row, gateway, best):
        own = self.summary(scenario, row, gateway)
        return own["median"] / best if own and best else None

    def cell(self, scenario, row, name):
        shown = [figure(value, row) for value in self.product(scenario, row, name) if value]
        if shown:
            failed = self.results["reasons"].get(scenario.key, {}).get(f"{name}, {scenario.tuned}")
            return " · tuned ".join(shown) + (f" · tuned – {self.note(failed)}" if failed else "")
        text = self.results["reasons"].get(scenario.key, {}).get(name)
        return "– " + self.note(text) if text else ("–" if name != "relay" else "")

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)
        return f"[{self.notes.index(text) + 1}]"

    def limit(self, against):
        """What a ratio is held against that no peer gives."""
        by_key = {row.key: (scenario, row) for scenario, row in self.rows}
        relay = lambda key: self.summary(*by_key[key], "relay") if key in by_key else None
        if against == "relay" and relay("echo-ws-64"):
            return relay("echo-ws-64")["median"]
        if against == "limits" and relay("session-ws"):
            return self.results["limits"]["handshake"] + relay("session-ws")["median"]
        return None

    def judged(self, scenario, row):
        """The budget's cell: must and moonshot, met or missed; and whether a reason is due."""
        budget, gateway = BUDGETS.get(row.key), self.gateways[0]
        own = self.summary(scenario, row, gateway)
        if budget is None or own is None:
            return "", False
        words, due = [], False
        for name, bound, against in (("must", budget.must, budget.against),
                                     ("moonshot", budget.moonshot, budget.moonshot_against or budget.against)):
            if against == "itself":
                basis, shown = 1.0, f"{name} ≤ {bound:g} {row.unit}".rstrip()
            else:
                among = OPENSSL if "OpenSSL" in against else self.peers
                basis = self.best(scenario, row, [peer for peer in among if peer in self.peers]) \
                    if "peer" in against else self.limit(against)
                shown = f"{name} ≤ {bound:g} × {against}"
            if not basis:
                words.append(shown + ": ?")
                continue
            met = own["median"] / basis <= bound
            words.append(f"{shown}: {'met' if met else '**missed**'}" + ("" if against == "itself" else
                         f" ({own['median'] / basis:.2f})"))
            due |= not met and name == "must"
        return "; ".join(words), due

    def table(self, chapter, title):
        columns = self.products
        lines = [f"| {title} | " + " | ".join(columns) + " | ÷ best peer | budget |", "|---" * (len(columns) + 3) + "|"]
        for scenario, row in self.rows:
            if row.chapter != chapter:
                continue
            unit = f", {row.unit}" if row.unit else ""
            best = self.best(scenario, row, self.peers)
            ratios = [] if row.plain else [self.ratio(scenario, row, gateway, best) for gateway in self.gateways]
            verdict, due = self.judged(scenario, row)
            lost = ratios and ratios[0] is not None and (ratios[0] < 0.995 if row.more_is_better else ratios[0] > 1.005)
            mark = ""
            if lost or due:
                mark = " " + self.note(f"{row.key}: " + self.why.get(row.key, "not explained yet"))
            shown = " / ".join("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"| {row.title}{unit} | " + " | ".join(self.cell(scenario, row, name) for name in columns)
                         + f" | {shown}{mark} | {verdict} |")
        return lines if len(lines) > 2 else []

    def facts(self):
        facts = self.results["facts"]
        columns = [name for name in self.products if name in facts]
        lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        median = lambda values: statistics.median(values) if values else float("nan")
        show = lambda title, value: lines.append(f"| {title} | " + " | ".join(value(facts[name]) for name in columns) + " |")
        show("program, MiB (without symbols)", lambda fact: f"{fact['binary_mib']:.1f} ({fact['stripped_mib']:.1f})")
        show("start until it listens, ms", lambda fact: f"{median(fact['start_ms']):.0f}")
        show("memory when started, MiB (PSS)", lambda fact: f"{median(fact['pss_kib']) / 1024:.1f}")
        return lines

    def latencies(self):
        lines = ["| p50 / p99 / p99.9, µs from the intended time | " + " | ".join(self.products) + " |",
                 "|---" * (len(self.products) + 1) + "|"]
        for scenario, row in self.rows:
            if row.chapter != CPU or row is not scenario.rows[0]:
                continue
            cells = []
            for name in self.products:
                seen = [one["latency_us"] for one in self.results["rounds"].get(scenario.key, {}).get(name, [])
                        if "latency_us" in one]
                cells.append(" / ".join(f"{statistics.median(one[at] for one in seen):,.0f}"
                                        for at in ("p50", "p99", "p999")) if seen else "–")
            if any(cell != "–" for cell in cells):
                lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
        return lines if len(lines) > 2 else []

    def chapters(self, pictures=()):
        results = self.results
        versions = ", ".join(f"{name} {results['facts'][name]['version']}" for name in self.products
                             if results["facts"].get(name, {}).get("version"))
        limits = results["limits"]
        lines = [f"{results['date']}, {results['machine']}; {results['passes']} interleaved rounds of "
                 f"{results['seconds']:g} s, one worker each. Medians; ± is half the distance between the quartiles. "
                 f"“tuned” is the same peer set up for the row (little memory, or large messages).", "", versions + ".", ""]
        for chapter, title in ((CPU, "CPU time of the proxy for each unit"), (MEMORY, "memory (PSS)"), (STORM, "storms")):
            table = self.table(chapter, title)
            lines += [*table, ""] if table else []
            for name, picture in pictures:
                lines += [picture, ""] if name == chapter else []
        if limits:
            lines += ["Limits: the server's share of a full TLS handshake in memory, rustls alone, "
                      f"{limits['handshake']:.0f} µs; with X25519MLKEM768 {limits['handshake-hybrid']:.0f} µs. `relay` copies "
                      "both ways with nothing but epoll.", ""]
        table = self.latencies()
        lines += [*table, ""] if table else []
        lines += [*self.facts(), ""]
        if self.notes:
            lines += ["Notes:", "", *(f"- [{at}] {text}" for at, text in enumerate(self.notes, 1)), ""]
        lines += ["† the rate was not held, or connections failed: not a figure to compare with."] \
            if any("†" in line for line in lines) else []
        return "\n".join(lines).rstrip() + "\n"


def figure(value, row):
    flag = "" if value["held"] else " †"
    text = f"{value['median']:,.{row.digits}f}"
    if value["rounds"] > 1 and value["median"]:
        text += f" ±{(value['high'] - value['low']) / value['median'] * 50:.0f} %"
    return text + flag
