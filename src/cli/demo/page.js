// The demo's page: one socket to try by hand, three Origins to compare, a chat on a second socket. Whatever comes from
// the network is shown through textContent only.
"use strict";

const $ = (id) => document.getElementById(id);
const STATES = ["CONNECTING", "OPEN", "CLOSING", "CLOSED"];
const MAX_LOG = 400;
const MAX_SHOWN = 600;
const scheme = location.protocol === "https:" ? "wss:" : "ws:";
const base = `${scheme}//${location.host}`;

// ---- small parts -------------------------------------------------------------------------------------------------

function bytesText(count) {
  if (count < 1024) return `${count} B`;
  if (count < 1048576) return `${(count / 1024).toFixed(count % 1024 ? 1 : 0)} KiB`;
  return `${(count / 1048576).toFixed(count % 1048576 ? 2 : 0)} MiB`;
}

function msText(milliseconds) {
  return `${milliseconds.toFixed(milliseconds < 100 ? 1 : 0)} ms`;
}

function hexText(bytes) {
  const shown = Array.from(bytes.subarray(0, 24), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return bytes.length > 24 ? `${shown} …` : shown;
}

function clip(text) {
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)} … (${text.length} characters)` : text;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Appends, and stays at the end if that is where the reader was. */
function append(list, item, limit) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  while (list.children.length > limit) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

async function sha256(bytes) {
  if (!crypto.subtle) return "";
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function equalBytes(a, b) {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return false;
  return true;
}

// ---- the socket to try by hand ------------------------------------------------------------------------------------

let socket = null;
let began = 0;
let sent = { messages: 0, bytes: 0 };
let received = { messages: 0, bytes: 0 };
/** What was sent and is expected back, oldest first: an echo keeps the order. */
let pending = [];
let roundTrips = [];
/** Messages are looked at one after the other, because reading a Blob takes a turn. */
let reading = Promise.resolve();

function log(kind, what, aside, mono) {
  const item = element("li");
  item.dataset.kind = kind;
  const time = element("time", "", began ? msText(performance.now() - began) : "–");
  time.dateTime = new Date().toISOString();
  time.title = new Date().toLocaleTimeString();
  const text = element("span", mono ? "what mono" : "what", what);
  if (aside) text.append(element("span", "aside", aside));
  item.append(time, element("span", "kind", kind), text);
  append($("log"), item, MAX_LOG);
}

function showState(failed) {
  const state = socket ? socket.readyState : WebSocket.CLOSED;
  $("state").textContent = STATES[state];
  $("state").dataset.readyState = String(state);
  $("road").dataset.state = failed ? "failed" : ["waiting", "open", "waiting", "closed"][state];
  const open = state === WebSocket.OPEN;
  $("connect").disabled = state !== WebSocket.CLOSED;
  $("disconnect").disabled = state > WebSocket.OPEN;
  $("server-close").disabled = !open;
  $("ask-handshake").disabled = !open;
  for (const button of document.querySelectorAll(".needs-open")) button.disabled = !open;
}

function showStats() {
  const total = (count) => (count.messages ? `${count.messages} · ${bytesText(count.bytes)}` : "0");
  $("stat-sent").textContent = total(sent);
  $("stat-received").textContent = total(received);
  if (roundTrips.length) {
    const sorted = [...roundTrips].sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)];
    const last = roundTrips[roundTrips.length - 1];
    $("stat-rtt").textContent = roundTrips.length > 1 ? `${msText(last)} (median ${msText(median)})` : msText(last);
  } else {
    $("stat-rtt").textContent = "–";
  }
}

/** While something is buffered the figure moves; otherwise nothing runs. */
function watchBuffered() {
  const amount = socket ? socket.bufferedAmount : 0;
  $("stat-buffered").textContent = bytesText(amount);
  $("stat-buffered").dataset.bytes = String(amount);
  if (amount && socket.readyState === WebSocket.OPEN) requestAnimationFrame(watchBuffered);
}

function connect() {
  if (socket && socket.readyState !== WebSocket.CLOSED) return;
  const url = $("url").value.trim();
  const protocols = $("protocol").value.split(",").filter(Boolean);
  sent = { messages: 0, bytes: 0 };
  received = { messages: 0, bytes: 0 };
  pending = [];
  roundTrips = [];
  for (const id of ["stat-protocol", "stat-open"]) $(id).textContent = "–";
  showStats();
  began = performance.now();
  let mine;
  try {
    mine = new WebSocket(url, protocols);
  } catch (problem) {
    log("error", `${problem.name}: ${problem.message}`);
    return;
  }
  socket = mine;
  mine.binaryType = $("binary-type").value;
  log("connect", url, protocols.length ? `offers ${protocols.join(", ")}` : "");
  showState();
  let opened = false;
  mine.addEventListener("open", () => {
    opened = true;
    $("stat-open").textContent = msText(performance.now() - began);
    $("stat-protocol").textContent = mine.protocol || "none";
    const extensions = mine.extensions ? `extensions ${mine.extensions}` : "";
    log("open", mine.protocol ? `subprotocol ${mine.protocol}` : "no subprotocol", extensions);
    showState();
  });
  mine.addEventListener("message", (event) => {
    const at = performance.now();
    reading = reading.then(() => arrived(event.data, at)).catch((problem) => log("error", String(problem)));
  });
  mine.addEventListener("error", () => log("error", "the socket failed; the browser gives scripts no reason"));
  mine.addEventListener("close", (event) => {
    // Behind what arrived before it.
    reading = reading.then(() => closed(event, opened, protocols.length > 0));
  });
}

function neverOpened(offered) {
  const refusal = "the gateway's log says why, under “end”";
  return offered ? `It never opened: refused (${refusal}), or no offered subprotocol was granted.` : `It never opened: ${refusal}.`;
}

function closed(event, opened, offered) {
  const reason = event.reason ? `“${event.reason}”` : "no reason given";
  const clean = event.wasClean ? "clean" : "not clean";
  log("close", `${event.code}, ${reason}, ${clean}`, opened ? "" : neverOpened(offered));
  for (const unanswered of pending.splice(0)) {
    if (unanswered.file) fileResult("bad", `${unanswered.file}: closed with ${event.code} before it came back`);
  }
  showState(!opened);
  watchBuffered();
}

function transmit(payload, label, file) {
  if (!socket || socket.readyState !== WebSocket.OPEN) {
    log("error", "not open");
    return;
  }
  const size = typeof payload === "string" ? new TextEncoder().encode(payload).length : payload.length;
  pending.push({ payload, file, at: performance.now() });
  socket.send(payload);
  sent.messages += 1;
  sent.bytes += size;
  const isText = typeof payload === "string";
  log("sent", label, `${isText ? "text" : "binary"}, ${bytesText(size)}`, !isText && !file);
  showStats();
  watchBuffered();
}

async function arrived(data, at) {
  const isText = typeof data === "string";
  const bytes = isText ? null : new Uint8Array(data instanceof Blob ? await data.arrayBuffer() : data);
  const size = isText ? new TextEncoder().encode(data).length : bytes.length;
  received.messages += 1;
  received.bytes += size;
  const asides = [`${isText ? "text" : data instanceof Blob ? "Blob" : "ArrayBuffer"}, ${bytesText(size)}`];
  const expected = /\/echo([/?]|$)/.test(socket.url) ? pending.shift() : undefined;
  if (expected) {
    const time = at - expected.at;
    const asked = expected.payload === "/handshake";
    const same = isText ? data === expected.payload
      : typeof expected.payload !== "string" && equalBytes(bytes, expected.payload);
    roundTrips.push(time);
    if (roundTrips.length > 1000) roundTrips.shift();
    asides.push(`back in ${msText(time)}`);
    if (!asked) asides.push(same ? "identical" : "DIFFERENT");
    if (expected.file) await compareFile(expected, bytes, time, same);
  }
  const handshake = isText ? handshakeText(data) : "";
  log("message", isText ? handshake || clip(data) : hexText(bytes), asides.join(", "), !isText || handshake !== "");
  showStats();
}

/** The answer to “/handshake”, as header lines; empty for anything else. */
function handshakeText(data) {
  if (!data.startsWith('{"target"')) return "";
  try {
    const { target, headers } = JSON.parse(data);
    return [`GET ${target}`, ...headers.map(([name, value]) => `${name}: ${value}`)].join("\n");
  } catch {
    return "";
  }
}

function fileResult(result, text) {
  $("file-result").dataset.result = result;
  $("file-result").textContent = text;
}

async function compareFile(expected, bytes, time, same) {
  const [there, back] = await Promise.all([sha256(expected.payload), sha256(bytes || new Uint8Array())]);
  const good = same && there === back;
  const digest = there ? ` SHA-256 ${there.slice(0, 16)}…` : "";
  fileResult(good ? "good" : "bad",
    `${expected.file}: ${bytesText(expected.payload.length)} there and back in ${msText(time)}, ` +
    `${good ? "every byte equal." : "NOT equal."}${digest}`);
}

async function sendFile(file) {
  if (!file) return;
  if (!socket || socket.readyState !== WebSocket.OPEN) {
    fileResult("bad", "Connect to /echo first.");
    return;
  }
  if (file.size > 16777216) {
    fileResult("bad", `${file.name} has ${bytesText(file.size)}; the backend takes 16 MiB at most.`);
    return;
  }
  fileResult("", `${file.name}: on its way`);
  transmit(new Uint8Array(await file.arrayBuffer()), file.name, file.name);
}

function parseHex(text) {
  const digits = text.replace(/[\s:,]|0x/gi, "");
  if (digits.length % 2 || /[^0-9a-f]/i.test(digits)) return null;
  return Uint8Array.from(digits.match(/../g) || [], (pair) => parseInt(pair, 16));
}

function randomBytes(size) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, Math.min(at + 65536, size)));
  return bytes;
}

function closeArguments() {
  const code = $("close-code").value.trim();
  return { code: code ? Number(code) : undefined, reason: $("close-reason").value };
}

function disconnect() {
  if (!socket) return;
  const { code, reason } = closeArguments();
  try {
    if (code === undefined) reason ? socket.close(1000, reason) : socket.close();
    else socket.close(code, reason);
  } catch (problem) {
    log("error", `${problem.name}: ${problem.message}`);
  }
  showState();
}

function markEndpoint() {
  for (const name of ["echo", "chat"]) {
    $(`endpoint-${name}`).setAttribute("aria-pressed", String($("url").value === `${base}/${name}`));
  }
}

function selectTab(chosen) {
  for (const name of ["text", "binary", "file"]) {
    const tab = $(`tab-${name}`);
    const selected = tab === chosen;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    $(`panel-${name}`).hidden = !selected;
  }
}

function onSubmit(id, action) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

function setUpSocket() {
  $("url").value = `${base}/echo`;
  $("url").addEventListener("input", markEndpoint);
  for (const name of ["echo", "chat"]) {
    $(`endpoint-${name}`).addEventListener("click", () => {
      $("url").value = `${base}/${name}`;
      if (name === "chat") $("protocol").value = "chat";
      markEndpoint();
    });
  }
  markEndpoint();
  onSubmit("connect-form", connect);
  onSubmit("close-form", disconnect);
  $("server-close").addEventListener("click", () => {
    const { code, reason } = closeArguments();
    transmit(`/close ${code === undefined ? 1000 : code} ${reason}`.trim(), "/close");
  });
  $("ask-handshake").addEventListener("click", () => transmit("/handshake", "/handshake"));
  $("binary-type").addEventListener("change", () => { if (socket) socket.binaryType = $("binary-type").value; });
  onSubmit("panel-text", () => transmit($("message").value, clip($("message").value)));
  $("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!$("send").disabled) $("panel-text").requestSubmit();
  });
  onSubmit("hex-form", () => {
    const bytes = parseHex($("hex").value);
    $("hex").setCustomValidity(bytes ? "" : "Pairs of hex digits, please");
    if (bytes) transmit(bytes, hexText(bytes));
    else $("hex").reportValidity();
  });
  $("hex").addEventListener("input", () => $("hex").setCustomValidity(""));
  onSubmit("random-form", () => {
    const bytes = randomBytes(Number($("random-size").value));
    transmit(bytes, hexText(bytes));
  });
  const drop = $("drop");
  $("file").addEventListener("change", () => {
    sendFile($("file").files[0]);
    $("file").value = "";
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") sendFile(event.dataTransfer.files[0]);
    });
  }
  const tabs = ["text", "binary", "file"].map((name) => $(`tab-${name}`));
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => selectTab(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      selectTab(next);
      next.focus();
    });
  });
  $("clear-log").addEventListener("click", () => $("log").replaceChildren());
  showState();
}

// ---- three Origins ------------------------------------------------------------------------------------------------

/** The same gateway under the other loopback name: another Origin, the same certificate. */
function foreignOrigin() {
  const other = { localhost: "127.0.0.1", "127.0.0.1": "localhost", "[::1]": "localhost" }[location.hostname];
  return other ? `${location.protocol}//${other}${location.port ? `:${location.port}` : ""}` : "";
}

function verdict(card, result, text) {
  card.dataset.result = result;
  card.querySelector('[data-part="verdict"]').textContent = text;
}

function judge(card, outcome) {
  if (outcome.result === "opened") verdict(card, "opened", `opened in ${msText(outcome.milliseconds)}`);
  else if (outcome.result === "refused") verdict(card, "refused", `refused in ${msText(outcome.milliseconds)} (${outcome.code})`);
  else verdict(card, "unreachable", outcome.text);
  return outcome.result;
}

function tryHere(target) {
  return new Promise((resolve) => {
    const begin = performance.now();
    const attempt = new WebSocket(target);
    attempt.addEventListener("open", () => {
      resolve({ result: "opened", milliseconds: performance.now() - begin });
      attempt.close(1000);
    });
    attempt.addEventListener("close", (event) => {
      resolve({ result: "refused", code: event.code, milliseconds: performance.now() - begin });
    });
  });
}

function tryInFrame(card, source, target, sandboxed) {
  const holder = card.querySelector('[data-part="frame"]');
  const frame = document.createElement("iframe");
  frame.title = sandboxed ? "A sandboxed frame" : "A foreign page";
  if (sandboxed) frame.setAttribute("sandbox", "allow-scripts");
  frame.src = `${source}/foreign?target=${encodeURIComponent(target)}`;
  return new Promise((resolve) => {
    const finish = (outcome) => {
      clearTimeout(timer);
      removeEventListener("message", listen);
      resolve(outcome);
    };
    const listen = (event) => {
      if (event.source === frame.contentWindow && event.data && event.data.from === "portcullis-foreign") finish(event.data);
    };
    const timer = setTimeout(() => {
      const text = sandboxed ? "the frame did not load" : `the frame did not load; open ${source}/ once and accept its certificate`;
      finish({ result: "unreachable", text });
    }, 8000);
    addEventListener("message", listen);
    holder.replaceChildren(frame);
  });
}

async function backendState() {
  const answer = await fetch("/backend.json", { cache: "no-store" });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

async function runOrigins() {
  const target = `${base}/echo`;
  const source = foreignOrigin();
  const summary = $("origin-summary");
  const cards = ["origin-same", "origin-foreign", "origin-null"].map($);
  $("origin-run").disabled = true;
  summary.textContent = "";
  delete summary.dataset.result;
  for (const card of cards) verdict(card, "waiting", "trying …");
  try {
    const before = (await backendState()).handshakes;
    const results = [
      judge(cards[0], await tryHere(target)),
      judge(cards[1], source ? await tryInFrame(cards[1], source, target, false)
        : { result: "unreachable", text: "open this page as localhost for this one" }),
      judge(cards[2], await tryInFrame(cards[2], location.origin, target, true)),
    ];
    const reached = (await backendState()).handshakes - before;
    const tried = results.filter((result) => result !== "unreachable").length;
    const good = results[0] === "opened" && !results.slice(1).includes("opened");
    summary.dataset.result = good ? "good" : "bad";
    summary.textContent = `${reached} of ${tried} handshakes reached the backend` +
      (good && reached === 1 ? ": the others ended at the gate." : ".");
  } catch (problem) {
    summary.dataset.result = "bad";
    summary.textContent = `The backend's counter could not be read: ${problem.message}`;
  } finally {
    $("origin-run").disabled = false;
  }
}

async function showCommands() {
  const source = foreignOrigin() || "https://evil.example";
  const state = await backendState().catch(() => ({}));
  const quote = (text) => (/^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  $("command-curl").textContent = `curl -i --http1.1 --cacert ${quote(state.ca || "CA.pem")} ${location.origin}/echo \\
  -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \\
  -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' -H 'Origin: ${source}'`;
  $("command-explain").textContent =
    `portcullis explain ${base}/echo --origin ${source} --config ${quote(state.config || "demo.toml")}`;
}

function setUpOrigins() {
  $("origin-same").querySelector('[data-part="origin"]').textContent = location.origin;
  $("origin-foreign").querySelector('[data-part="origin"]').textContent = foreignOrigin() || "–";
  $("origin-run").addEventListener("click", runOrigins);
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText($(button.dataset.copy).textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren($(button.dataset.copy));
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
  showCommands();
}

// ---- chat ---------------------------------------------------------------------------------------------------------

let chat = null;
let myName = "";

function chatState(text) {
  const state = chat ? chat.readyState : WebSocket.CLOSED;
  $("chat-state").textContent = text;
  $("chat-state").dataset.readyState = String(state);
  const open = state === WebSocket.OPEN;
  $("chat-join").disabled = state !== WebSocket.CLOSED;
  $("chat-leave").disabled = !open;
  $("chat-text").disabled = !open;
  $("chat-send").disabled = !open;
}

function chatLine(className, name, text) {
  const item = element("li", className);
  if (name) item.append(element("b", "", name));
  item.append(text);
  append($("chat-log"), item, MAX_LOG);
}

function chatHeard(data) {
  const heard = JSON.parse(data);
  if (heard.type === "welcome") myName = heard.you;
  if (heard.type === "renamed" && heard.from === myName) myName = heard.name;
  if (heard.members) {
    $("chat-members").replaceChildren(...heard.members.map((name) => element("li", name === myName ? "me" : "", name)));
  }
  if (heard.type === "said") chatLine(heard.name === myName ? "me" : "", heard.name, heard.text);
  if (heard.type === "joined") chatLine("note", "", `${heard.name} came in`);
  if (heard.type === "left") chatLine("note", "", `${heard.name} left`);
  if (heard.type === "renamed") chatLine("note", "", `${heard.from} is now ${heard.name}`);
}

function joinChat() {
  if (chat && chat.readyState !== WebSocket.CLOSED) return;
  const mine = new WebSocket(`${base}/chat`, "chat");
  chat = mine;
  chatState("joining");
  mine.addEventListener("open", () => {
    chatState("in the room");
    const name = $("chat-name").value.trim();
    if (name) mine.send(`/name ${name}`);
    $("chat-text").focus();
  });
  mine.addEventListener("message", (event) => {
    try {
      chatHeard(event.data);
    } catch (problem) {
      chatLine("note", "", `not understood: ${problem.message}`);
    }
  });
  mine.addEventListener("close", (event) => {
    $("chat-members").replaceChildren();
    if (event.code !== 1000) chatLine("note", "", `closed with ${event.code}${event.reason ? `: ${event.reason}` : ""}`);
    chatState("not joined");
  });
}

function setUpChat() {
  onSubmit("chat-join-form", joinChat);
  $("chat-leave").addEventListener("click", () => chat && chat.close(1000));
  onSubmit("chat-form", () => {
    const text = $("chat-text").value;
    if (!text.trim() || !chat || chat.readyState !== WebSocket.OPEN) return;
    // A line that begins with the command would rename; a space in front makes it speech.
    chat.send(text.startsWith("/name ") ? ` ${text}` : text);
    $("chat-text").value = "";
  });
}

// ---- begin --------------------------------------------------------------------------------------------------------

function showTransport() {
  const [page] = performance.getEntriesByType("navigation");
  const spoken = page && page.nextHopProtocol;
  $("page-transport").append(element("span", "host", `${location.host} `), spoken ? `page over ${spoken}` : "");
  $("road-origin").textContent = location.origin;
}

setUpSocket();
setUpOrigins();
setUpChat();
showTransport();
