// Stands for any page that is not ours: tries to open a WebSocket to the address given in the query and tells the page
// around it what came of that. It learns no more than any script would: open, or closed with 1006.
"use strict";

const target = new URLSearchParams(location.search).get("target") || "";
const outcome = document.getElementById("outcome");
document.getElementById("me").textContent = self.origin;

function report(result, code, milliseconds) {
  outcome.textContent = result === "opened" ? `${target}: opened` : `${target}: refused, code ${code}`;
  // The outcome is no secret, and the page around may have either loopback name.
  parent.postMessage({ from: "portcullis-foreign", origin: self.origin, result, code, milliseconds }, "*");
}

try {
  const begin = performance.now();
  const socket = new WebSocket(target);
  let opened = false;
  socket.addEventListener("open", () => {
    opened = true;
    report("opened", 0, performance.now() - begin);
    socket.close(1000);
  });
  socket.addEventListener("close", (event) => {
    if (!opened) report("refused", event.code, performance.now() - begin);
  });
} catch (problem) {
  outcome.textContent = String(problem);
}
