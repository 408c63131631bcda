"""What `benches/spread` and `benches/operations` share: the programs that they run, and the page that tells of them."""

import subprocess
import sys

from peers import BENCH, ROOT, TARGET, say

PAGE = ROOT / "docs/performance.md"


def build(options):
    """The gateway and the load tool, as released."""
    run = lambda *words: subprocess.run(words, cwd=ROOT, check=True)
    manifest = ["--locked", "--quiet", "--manifest-path", "benches/load/Cargo.toml"]
    if not options.gateway:
        say("building the gateway")
        run("cargo", "build", "--release", "--locked", "--quiet", "--target-dir", TARGET)
        options.gateway = TARGET / "release/portcullis"
    if options.smoke:
        run("cargo", "build", *manifest, "--target-dir", TARGET)
        return TARGET / "debug/portcullis-load"
    run("cargo", "build", "--release", *manifest, "--target-dir", BENCH / "cargo")
    return BENCH / "cargo/release/portcullis-load"


def publish(name, text):
    """Into docs/performance.md, between the marks of this name."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = PAGE.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        sys.exit(f"{PAGE} has no {begin} … {end}")
    PAGE.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
    say(f"published: {PAGE}")
