"""The pictures: SVG by hand, readable on light and dark ground, with nothing but numbers and text in them."""

import math
import statistics
from html import escape

from scenarios import CPU

STYLE = """<style>
text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #424a53 }
.title { font-weight: 600; font-size: 14px } .small { font-size: 10.5px } .axis { stroke: #8c959f; stroke-width: 1 }
.grid { stroke: #8c959f; stroke-width: 1; opacity: .25 } .end { text-anchor: end } .middle { text-anchor: middle }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
</style>"""
# In mid tones, which stand out from white and from black alike; the gateway's is the only strong one.
COLOURS = ["#1f77e0", "#e0563f", "#b07aa1", "#d19a1e", "#4fa36b", "#8c7a6b", "#7f8fa6", "#5bb5c4", "#c06c9a", "#999999"]


def svg(width, height, label, parts):
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                      f'height="{height}" role="img" aria-label="{escape(label)}">', STYLE, *parts, "</svg>", ""])


def text(x, y, words, kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}"' + (f' class="{kind}"' if kind else "") + f">{escape(words)}</text>"


def legend(names, colours, y, left=16):
    parts, x = [], left
    for name in names:
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" rx="2" fill="{colours[name]}"/>')
        parts.append(text(x + 15, y, name))
        x += 30 + 7.2 * len(name)
    return parts


def colours(report):
    return dict(zip(report.products, COLOURS))


def bars(report):
    """CPU for each unit, the gateway being 1: a group of bars for every row."""
    tint = colours(report)
    groups = []
    for scenario, row in report.rows:
        if row.chapter != CPU or row.plain:
            continue
        own = report.summary(scenario, row, report.gateways[0])
        held = lambda name: [value["median"] for value in report.product(scenario, row, name) if value and value["held"]]
        found = [(name, min(held(name))) for name in report.products if held(name)]
        if own and own["held"] and own["median"] > 0 and len(found) > 1:
            groups.append((f"{row.title}: {own['median']:,.1f} µs",
                           [(name, value / own["median"]) for name, value in found]))
    if not groups:
        return None
    # Two columns, about equally long.
    height = lambda group: 24 + 11 * len(group[1])
    total, columns, used = sum(map(height, groups)), [[], []], 0
    for group in groups:
        columns[0 if used + height(group) / 2 <= total / 2 else 1].append(group)
        used += height(group)
    most, wide, top = 4.0, 300, 78
    parts = [text(16, 24, "CPU time of the proxy for each unit of work, relative to the gateway", "title"),
             text(16, 42, "Shorter is better; the line is the gateway, whose figure stands beside each name. "
                          "The better of a peer's configurations.", "small"),
             *legend(report.products, tint, 62)]
    bottom = top
    for at, column in enumerate(columns):
        left, y = 16 + at * (wide + 140), top
        for title, values in column:
            parts.append(text(left, y + 12, title))
            y += 17
            for name, ratio in values:
                length = min(ratio, most) / most * wide
                parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="9" rx="1.5" fill="{tint[name]}">'
                             f"<title>{escape(name)}: {ratio:.2f}</title></rect>")
                parts.append(text(left + length + 4, y + 8.5, f"{ratio:.2f}" + (" →" if ratio > most else ""), "small"))
                y += 11
            line = left + wide / most
            parts.append(f'<line x1="{line:.1f}" y1="{y - 11 * len(values) - 2}" x2="{line:.1f}" y2="{y}" class="axis"/>')
            y += 7
        bottom = max(bottom, y)
    return svg(16 + 2 * (wide + 140), bottom + 8, "CPU time for each unit of work, relative to the gateway", parts)


def medians(results, key, name, what):
    """The medians of a list of figures over all rounds."""
    found = [one[what] for one in results["rounds"].get(key, {}).get(name, []) if what in one]
    return [statistics.median(values) for values in zip(*found)] if found else None


def curves(report):
    """Memory against what is held, and before, during and after two bursts. The scale is logarithmic."""
    results, tint = report.results, colours(report)
    panels = []
    for key, title in (("idle-ws", "held tunnels, ws"), ("idle-wss", "held tunnels, wss"),
                       ("idle-ws-quick", "held tunnels, ws"), ("idle-wss-quick", "held tunnels, wss")):
        lines = {}
        for name in report.products:
            values, levels = medians(results, key, name, "pss_kib"), medians(results, key, name, "levels")
            if values:
                start = statistics.median(one["start_kib"] for one in results["rounds"][key][name])
                lines[name] = list(zip([0, *levels], [value / 1024 for value in (start, *values)]))
        if lines:
            panels.append((title, lines, lambda x: f"{x:,.0f}"))
    stages = ["before", "1st peak", "after", "2nd peak", "after"]
    for key, title in (("burst-ws", "two bursts of 8,000, ws"), ("burst-wss", "two bursts of 8,000, wss")):
        lines = {}
        for name in report.products:
            peaks, after = medians(results, key, name, "peak_kib"), medians(results, key, name, "after_kib")
            if peaks and len(peaks) == 2:
                start = statistics.median(one["start_kib"] for one in results["rounds"][key][name])
                values = (start, peaks[0], after[0], peaks[1], after[1])
                lines[name] = [(at, value / 1024) for at, value in enumerate(values)]
        if lines:
            panels.append((title, lines, lambda x: stages[int(x)]))
    if not panels:
        return None
    wide, high, top, gap = 240, 250, 92, 62
    parts = [text(16, 24, "Memory of the proxy (PSS), MiB, as shipped", "title"),
             text(16, 42, "Lower is better; the scale is logarithmic.", "small"), *legend(report.products, tint, 62)]
    every = [value for _, lines, _ in panels for points in lines.values() for _, value in points if value > 0]
    low, most = math.floor(math.log10(min(every)) * 2) / 2, math.ceil(math.log10(max(every)) * 2) / 2
    height = lambda value: top + high - (math.log10(max(value, 0.01)) - low) / (most - low) * high
    for at, (title, lines, label) in enumerate(panels):
        left = 52 + at * (wide + gap)
        parts.append(text(left, top - 8, title))
        for tick in (1, 3, 10, 30, 100, 300, 1000, 3000):
            if low - 0.01 <= math.log10(tick) <= most + 0.01:
                y = height(tick)
                parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + wide}" y2="{y:.1f}" class="grid"/>')
                parts.append(text(left - 5, y + 4, f"{tick:,}", "small end"))
        ticks = max(lines.values(), key=len)
        right = max(x for points in lines.values() for x, _ in points) or 1
        for x, _ in ticks:
            parts.append(text(left + x / right * wide, top + high + 16, label(x), "small middle"))
        for name, points in reversed(lines.items()):
            path = " ".join(f"{left + x / right * wide:.1f},{height(value):.1f}" for x, value in points)
            thick = 2.6 if name in report.gateways else 1.6
            parts.append(f'<polyline points="{path}" fill="none" stroke="{tint[name]}" stroke-width="{thick}"/>')
            parts += [f'<circle cx="{left + x / right * wide:.1f}" cy="{height(value):.1f}" r="{thick:g}" '
                      f'fill="{tint[name]}"><title>{escape(name)}: {value:,.1f} MiB</title></circle>' for x, value in points]
    return svg(52 + len(panels) * (wide + gap), top + high + 34, "Memory of the proxy against held tunnels", parts)
