"use strict";
// Everything is made of elements and text; nothing that the agent says is ever taken for HTML.

const EVERY = 2000;
// What the line at the top depends on is asked for whatever the view; of the whole cluster less often, for it is large.
const ALWAYS = ["peers", "flows"];
const CLUSTER_EVERY = 15000;
const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else node.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child);
  }
  return node;
}

const state = { tab: "overview", filter: "", port: 80, paused: false, at: 0, clusterAt: 0, failed: "", data: {} };

async function read(what) {
  const response = await fetch("/api/" + what, { cache: "no-store" });
  const body = await response.json().catch(() => ({ error: "the agent did not answer in time" }));
  if (body && body.error) throw new Error(body.error);
  return body;
}

// What each view asks for beside the state of the node. Where one answer is missing, the rest is shown.
const VIEWS = [
  { id: "overview", name: "Overview", asks: ["peers", "cluster", "flows", "events"], draw: overview },
  { id: "topology", name: "Topology", asks: ["peers", "cluster"], draw: topology },
  { id: "sessions", name: "Sessions", asks: ["peers", "events"], draw: sessions },
  { id: "routes", name: "Routes", asks: ["routes"], draw: routes },
  { id: "addresses", name: "Addresses", asks: ["cluster"], draw: addresses },
  { id: "endpoints", name: "Endpoints", asks: ["endpoints"], draw: endpoints },
  { id: "policy", name: "Policy", asks: ["policy", "counters"], draw: policy },
  { id: "flows", name: "Flows", asks: ["flows"], draw: flows },
];

// Ranges of IPv6 hold more than anybody reads: 2⁸⁰.
const power = (n) => "2" + [...String(Math.round(Math.log2(n)))].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
const number = (n) => (n === undefined || n === null ? "–" : n >= 1e12 ? power(n) : n.toLocaleString("en"));
const plural = (n, one, many = one + "s") => number(n) + " " + (n === 1 ? one : many);
function span(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  const parts = [];
  for (const [size, unit] of units) {
    const count = Math.floor(seconds / size);
    if (count > 0 || (unit === "s" && parts.length === 0)) parts.push(count + unit);
    seconds -= count * size;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const share = (pool) => (pool.size > 0 ? (pool.used + pool.resting) / pool.size : 0);
const percent = (part) => (part > 0 && part < 0.005 ? "< 1 %" : Math.round(part * 100) + " %");
const level = (part) => (part >= 0.95 ? "bad" : part >= 0.8 ? "warn" : "good");
const isUp = (peer) => peer.state === "Established";

function chip(text, kind) { return el("span", { class: "chip " + kind }, text); }

// A table whose rows the filter chooses from. A cell is text, a node, or [class, content].
function table(columns, rows, empty) {
  const wanted = state.filter.toLowerCase();
  const shown = rows.filter((row) => !wanted || row.map(plain).join(" ").toLowerCase().includes(wanted));
  if (shown.length === 0) return el("p", { class: "empty" }, wanted ? "Nothing matches “" + state.filter + "”." : empty);
  const heads = columns.map((column) => {
    const right = column.startsWith("#");
    return el("th", { scope: "col", class: right ? "number" : null }, right ? column.slice(1) : column);
  });
  const lines = shown.map((row) => el("tr", { tabindex: "0" }, row.map((cell, i) => {
    const right = columns[i].startsWith("#") ? "number" : null;
    return Array.isArray(cell) ? el("td", { class: cell[0] }, cell[1]) : el("td", { class: right }, cell);
  })));
  return el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, lines));
}
function plain(cell) {
  if (Array.isArray(cell)) return plain(cell[1]);
  return cell instanceof Node ? cell.textContent : String(cell ?? "");
}
function panel(title, note, ...content) {
  const tools = content.filter((part) => part && part.classList && part.classList.contains("tools"));
  const rest = content.filter((part) => !tools.includes(part));
  return el("section", { class: "panel" }, el("h2", {}, title, note ? el("small", {}, note) : null, tools), rest);
}
function filterBox() {
  const box = el("input", { type: "search", id: "filter", placeholder: "filter  /", "aria-label": "Filter rows",
    on: { input: (event) => { state.filter = event.target.value; draw(); } } });
  box.value = state.filter;
  return el("span", { class: "tools" }, box);
}
function missing(what) {
  const why = state.data[what + "!"];
  return why ? el("p", { class: "empty" }, why) : null;
}
function card(title, figure, note, kind) {
  return el("article", { class: "card " + (kind || "") }, el("h3", {}, title), el("p", { class: "figure" }, figure),
    el("p", { class: "note" }, note || ""));
}

// What is wrong, the worst first: [text, explanation, kind].
function troubles() {
  const { node, peers, cluster, flows } = state.data;
  const found = [];
  if (!node) return found;
  const status = node.status;
  if (!status.datastore.connected) {
    found.push(["The datastore is away for " + span(status.datastore.since_secs),
      status.datastore.detail + ". Traffic goes on; nothing new can be attached.", "bad"]);
  }
  for (const reason of status.not_ready_reasons) found.push(["Not ready", reason, "bad"]);
  for (const failing of status.dataplane.failing) found.push(["The kernel refuses something", failing, "bad"]);
  for (const peer of peers || []) {
    if (!isUp(peer)) {
      found.push(["Session with " + peer.name + " (" + peer.address + ") is " + peer.state + " for " + span(peer.since_secs),
        peer.last_error || "It has not been established yet.", "bad"]);
    } else if (peer.bfd_up === false) {
      found.push(["BFD finds the path to " + peer.name + " broken", peer.address, "bad"]);
    }
  }
  for (const pool of (cluster && cluster.pools) || []) {
    if (share(pool) >= 0.95) {
      found.push(["Pool " + pool.name + " is " + (pool.used >= pool.size ? "full" : "nearly full"),
        number(pool.used) + " of " + number(pool.size) + " addresses of " + pool.cidr + " are held.", "bad"]);
    } else if (share(pool) >= 0.8) {
      found.push(["Pool " + pool.name + " is " + Math.round(share(pool) * 100) + " % full", pool.cidr, "warn"]);
    }
  }
  const dropped = denied(flows);
  if (dropped > 0) {
    found.push([plural(dropped, "packet") + " dropped by policy lately", "The view Flows has them, with the rule that decided.",
      "warn"]);
  }
  if (node.leaks > 0) {
    found.push([plural(node.leaks, "address", "addresses") + " without an endpoint", "Given back after the grace period.", "warn"]);
  }
  return found;
}
function denied(flows) {
  const all = (flows && flows.flows) || [];
  return all.filter((flow) => flow.verdict === "deny").reduce((sum, flow) => sum + flow.packets, 0);
}

function overview() {
  const { node, peers, cluster, flows, events } = state.data;
  const { status } = node;
  const all = peers || [];
  const up = all.filter(isUp).length;
  const pools = (cluster && cluster.pools) || [];
  const fullest = pools.reduce((worst, pool) => (!worst || share(pool) > share(worst) ? pool : worst), null);
  const dropped = denied(flows);
  const found = troubles();
  const plane = status.dataplane;
  return [
    found.length > 0 && el("ul", { class: "trouble", "aria-label": "What is wrong" }, found.map(([what, why, kind]) =>
      el("li", { class: kind }, what, el("small", {}, why)))),
    el("section", { class: "cards", "aria-label": "At a glance" },
      card("Agent", status.ready ? "Ready" : "Not ready", "up " + span(status.uptime_secs), status.ready ? "good" : "bad"),
      card("BGP sessions", up + " / " + all.length, "AS " + status.bgp.local_as + ", " + (status.bgp.router_id || "no id"),
        all.length === 0 ? "" : up === all.length ? "good" : "bad"),
      card("Endpoints here", number(plane.endpoints), plural(node.policies, "policy", "policies") + ", "
        + plural(node.sets, "set"), ""),
      card("Routes", number(plane.routes), "programmed into the kernel", plane.failing.length > 0 ? "bad" : "good"),
      card("Fullest pool", fullest ? percent(share(fullest)) : "–",
        fullest ? fullest.name + ", " + fullest.cidr : "no pool", fullest ? level(share(fullest)) : ""),
      card("Dropped lately", flows ? number(dropped) : "–", flows ? "packets, by policy" : "flows are not recorded",
        dropped > 0 ? "warn" : ""),
      card("Datastore", status.datastore.connected ? "Connected" : "Away",
        status.datastore.driver + ", for " + span(status.datastore.since_secs), status.datastore.connected ? "good" : "bad"),
      card("Policy in", plane.backend, node.apply_seconds === null ? "nothing applied yet"
        : "a change takes " + (node.apply_seconds * 1000).toFixed(1) + " ms (median)", "")),
    el("div", { class: "columns" },
      panel("Sessions", null, sessionSummary(all)),
      panel("Pools", null, poolList(pools))),
    events && events.length > 0 && panel("Latest changes of sessions", null, eventTable(events.slice(-6))),
  ];
}

// On the overview what matters most; the view Sessions has the rest.
function sessionSummary(peers) {
  const down = (peer) => (isUp(peer) ? 1 : 0);
  const rows = [...peers].sort((a, b) => down(a) - down(b)).slice(0, 10).map((peer) => [
    peer.name, ["mono", peer.address], chip(peer.state, isUp(peer) ? "good" : "bad"), span(peer.since_secs),
    ["number", number(peer.families.reduce((sum, f) => sum + f.received, 0))],
    ["number", number(peer.families.reduce((sum, f) => sum + f.advertised, 0))],
  ]);
  return table(["Name", "Address", "State", "For", "#Received", "#Advertised"], rows,
    "No peers: the mesh is off or this is the only node, and no BGPPeer is for it.");
}
function sessionTable(peers) {
  const rows = peers.map((peer) => [
    peer.name, ["mono", peer.address], ["mono", String(peer.remote_as)],
    chip(peer.state, isUp(peer) ? "good" : "bad"), span(peer.since_secs),
    peer.bfd_up === undefined ? "" : chip(peer.bfd_up ? "up" : "down", peer.bfd_up ? "good" : "bad"),
    ["number", number(peer.families.reduce((sum, f) => sum + f.received, 0))],
    ["number", number(peer.families.reduce((sum, f) => sum + f.advertised, 0))],
    peer.last_error,
  ]);
  return table(["Name", "Address", "AS", "State", "For", "BFD", "#Received", "#Advertised", "Last error"], rows,
    "No peers: the mesh is off or this is the only node, and no BGPPeer is for it.");
}
function eventTable(events) {
  const rows = [...events].reverse().map((event) => [
    clock(event.unix_secs * 1000), ["mono", event.peer], event.from + " → " + event.to,
    event.count > 1 ? event.count + " times" : "", event.reason,
  ]);
  return table(["When", "Peer", "State", "", "Reason"], rows, "Nothing happened yet.");
}
function sessions() {
  const { peers, events } = state.data;
  return [
    panel("BGP sessions", plural((peers || []).length, "peer"), filterBox(), missing("peers") || sessionTable(peers || [])),
    panel("Changes of state", "the last ones, newest first", missing("events") || eventTable(events || [])),
  ];
}

// Routers above, this host in the middle, the other hosts below.
function topology() {
  const { node, peers, cluster } = state.data;
  const all = peers || [];
  // One session for each family, and one that is down is not to hide behind the other.
  const together = (peers) => {
    const byName = new Map();
    for (const peer of peers) byName.set(peer.name, [...(byName.get(peer.name) || []), peer]);
    return byName;
  };
  const isMesh = (peer) => peer.name.startsWith("mesh ");
  const meshed = all.filter(isMesh);
  const mesh = together(meshed);
  const tors = all.filter((peer) => !isMesh(peer));
  const self = node.status.node;
  const others = ((cluster && cluster.nodes) || []).filter((n) => n.name !== self);
  const top = [...together(tors).entries()].slice(0, 8);
  const bottom = others.slice(0, 24);
  const perRow = 6;
  const rowsBelow = Math.ceil(bottom.length / perRow);
  const width = 1160, boxWidth = 168, boxHeight = 58;
  const ySelf = top.length > 0 ? 250 : 40;
  const height = ySelf + 120 + rowsBelow * 150;
  const x = (i, count) => (width / (count + 1)) * (i + 1);
  const wires = [], boxes = [];
  const selfX = width / 2;
  const box = (cx, y, title, lines, extra = "", kind = "") => svg("g", { class: extra },
    svg("rect", { class: "box " + kind, x: cx - boxWidth / 2, y, width: boxWidth, height: boxHeight, rx: 9 }),
    svg("text", { x: cx, y: y + 23, "text-anchor": "middle" }, title.slice(0, 22)),
    svg("text", { x: cx, y: y + 42, "text-anchor": "middle", class: "small" }, lines));
  const wire = (x1, y1, x2, y2, ups, downs, label) => {
    const kind = ups + downs === 0 ? "" : downs > 0 ? "bad" : "good";
    const middle = (y1 + y2) / 2;
    wires.push(svg("path", { class: "wire " + kind, d: `M${x1} ${y1} C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}` },
      svg("title", {}, label)));
    if (label) {
      const lx = (x1 + x2) / 2, w = label.length * 6.2 + 28;
      boxes.push(svg("g", {}, svg("rect", { class: "tag", x: lx - w / 2, y: middle - 12, width: w, height: 22, rx: 11 }),
        svg("circle", { class: "dot " + kind, cx: lx - w / 2 + 11, cy: middle - 1, r: 4 }),
        svg("text", { class: "small", x: lx + 8, y: middle + 3, "text-anchor": "middle" }, label)));
    }
  };
  const join = (sessions, x1, y1, x2, y2) => {
    const down = sessions.filter((session) => !isUp(session));
    const sum = (what) => sessions.reduce((all, s) => all + s.families.reduce((a, f) => a + f[what], 0), 0);
    const label = down.length > 0 ? down[0].state : "↓ " + number(sum("received")) + "  ↑ " + number(sum("advertised"));
    wire(x1, y1, x2, y2, sessions.length - down.length, down.length, label);
  };
  top.forEach(([name, sessions], i) => {
    const cx = x(i, top.length);
    join(sessions, cx, 40 + boxHeight, selfX, ySelf);
    boxes.push(box(cx, 40, name, "AS " + sessions[0].remote_as + " · " + sessions[0].address, "", "tor"));
  });
  boxes.push(box(selfX, ySelf, self, "AS " + node.status.bgp.local_as + " · " + plural(node.status.dataplane.endpoints, "endpoint"),
    "self"));
  bottom.forEach((other, i) => {
    const row = Math.floor(i / perRow), inRow = Math.min(perRow, bottom.length - row * perRow);
    const cx = x(i % perRow, inRow), y = ySelf + 170 + row * 150;
    const sessions = mesh.get("mesh " + other.name);
    if (sessions) join(sessions, selfX, ySelf + boxHeight, cx, y);
    boxes.push(box(cx, y, other.name, other.ipv4 || other.ipv6 || "no address"));
  });
  const words = [self + " with " + plural(tors.length, "session") + " to routers and " + plural(meshed.length, "session") + " to other nodes"];
  for (const peer of all) words.push(peer.name + ": " + peer.state);
  return panel("Topology", plural(others.length + 1, "node") + ", " + plural(all.length, "session") + " of this one",
    missing("peers"), svg("svg", { class: "map", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words.join("; ") },
      wires, boxes),
    others.length > bottom.length && el("p", { class: "empty" }, plural(others.length - bottom.length, "further node")));
}

function routes() {
  const { routes: known } = state.data;
  if (!known) return panel("Routes", null, missing("routes") || el("p", { class: "empty" }, "Reading."));
  const rows = known.rows.map((route) => [
    ["mono", route.prefix], ["mono", route.source], ["mono", route.next_hops.join(", ")], ["mono", route.as_path],
    route.local_pref === undefined ? "" : String(route.local_pref), route.med === undefined ? "" : String(route.med),
    ["mono", route.communities.join(" ")], route.stale ? chip("stale", "warn") : route.multipath ? chip("ecmp", "") : "",
  ]);
  const note = known.total > known.rows.length ? "the first " + number(known.rows.length) + " of " + number(known.total)
    : number(known.total);
  return panel("Selected routes", note, filterBox(),
    table(["Prefix", "From", "Next hops", "AS path", "Pref", "MED", "Communities", ""], rows, "No routes."));
}

function poolList(pools) {
  if (pools.length === 0) return missing("cluster") || el("p", { class: "empty" }, "No pools yet: margayctl apply one.");
  return el("div", {}, pools.map((pool) => {
    const part = share(pool);
    const bar = el("i", {});
    bar.style.width = Math.min(100, part * 100) + "%";
    return el("div", { class: "pool" },
      el("div", {}, pool.name, pool.disabled ? " (disabled)" : "", el("small", { class: "mono" }, pool.cidr)),
      el("div", { class: "fill " + level(part), role: "meter", "aria-label": "Fill of " + pool.name, "aria-valuemin": 0,
        "aria-valuemax": 100, "aria-valuenow": Math.round(part * 100) }, bar),
      el("div", { class: "share" }, number(pool.used) + " of " + number(pool.size),
        el("small", {}, plural(pool.blocks, "block") + (pool.resting > 0 ? ", " + number(pool.resting) + " rest" : ""))));
  }));
}
function addresses() {
  const { cluster } = state.data;
  if (!cluster) return panel("Pools", null, missing("cluster") || el("p", { class: "empty" }, "Reading."));
  const blocks = cluster.blocks.map((block) => [
    ["mono", block.cidr], block.pool || "(no pool)", ["number", number(block.used)], ["number", number(block.resting)],
    ["number", number(block.size)],
  ]);
  return [
    panel("Pools", plural(cluster.pools.length, "pool") + ", whole cluster", poolList(cluster.pools)),
    panel("Blocks of this node", plural(blocks.length, "block"), filterBox(),
      table(["Block", "Pool", "#Used", "#Resting", "#Size"], blocks, "This node has no block yet.")),
    cluster.damaged.length > 0 && panel("Damaged records", null, el("ul", {}, cluster.damaged.map((line) => el("li", {}, line)))),
  ];
}

function endpoints() {
  const { endpoints: known } = state.data;
  if (!known) return panel("Endpoints", null, missing("endpoints") || el("p", { class: "empty" }, "Reading."));
  const rows = known.rows.map((endpoint) => [
    endpoint.namespace, endpoint.pod || endpoint.name, ["mono", endpoint.addresses.join(", ")], ["mono", endpoint.interface],
    Object.entries(endpoint.labels).filter(([key]) => !key.startsWith("projectcalico.org/"))
      .map(([key, value]) => key + "=" + value).join(" "),
    endpoint.profiles.join(", "),
  ]);
  return panel("Endpoints of this node", plural(known.total, "endpoint"), filterBox(),
    table(["Namespace", "Name", "Addresses", "Interface", "Labels", "Profiles"], rows, "Nothing is attached here."));
}

function policy() {
  const { policy: known, counters } = state.data;
  const port = el("input", { type: "number", min: 1, max: 65535, "aria-label": "Port", on: { change: (event) => {
    const wanted = Number(event.target.value);
    if (wanted >= 1 && wanted <= 65535) { state.port = wanted; refresh(); }
  } } });
  port.value = state.port;
  const tools = el("span", { class: "tools" }, "TCP to port", port);
  const matrix = known && known.endpoints.length > 0 ? matrixTable(known)
    : missing("policy") || el("p", { class: "empty" }, "No endpoints to ask about.");
  const rows = ((counters && counters.rules) || []).filter((rule) => rule.packets > 0)
    .sort((a, b) => b.packets - a.packets).slice(0, 50).map((rule) => [
      rule.resource, rule.ingress ? "ingress" : "egress", ["number", String(rule.rule)], ["number", number(rule.packets)],
      ["number", number(rule.bytes)],
    ]);
  const note = known ? "rows send, columns receive; " + (known.total > known.endpoints.length
    ? "the first " + known.endpoints.length + " of " + number(known.total) : plural(known.total, "endpoint")) : null;
  return [
    panel("Who may talk to whom", note, tools, matrix),
    panel("Rules that matched here", "connections opened, since the policy last changed", missing("counters")
      || table(["Policy", "Way", "#Rule", "#Packets", "#Bytes"], rows, "No rule of this node has matched yet.")),
  ];
}
function matrixTable(known) {
  const names = known.endpoints.map((endpoint) => endpoint.namespace + "/" + endpoint.name);
  const head = el("tr", {}, el("th", {}), names.map((name, i) =>
    el("th", { class: "column", scope: "col" }, el("span", { class: known.endpoints[i].local ? "local" : "" }, name.slice(0, 28)))));
  const rows = known.rows.map((cells, i) => el("tr", {},
    el("th", { class: "row", scope: "row" }, el("span", { class: known.endpoints[i].local ? "local" : "" }, names[i])),
    cells.map((cell, j) => cell === null ? el("td", {}) : el("td", {
      class: cell.allow ? "good" : "bad", tabindex: "0",
      title: names[i] + " → " + names[j] + ": " + (cell.allow ? "allowed" : "denied") + ", " + cell.why,
      "aria-label": names[i] + " to " + names[j] + " " + (cell.allow ? "allowed" : "denied"),
    }, cell.allow ? "✓" : "✕"))));
  return el("table", { class: "matrix" }, el("thead", {}, head), el("tbody", {}, rows));
}

const PROTOCOLS = { 1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp" };
const VERDICTS = { deny: "bad", allow: "good", would_deny: "warn" };
function why(reason) {
  if (typeof reason === "string") return reason.replaceAll("_", " ");
  const [kind, about] = Object.entries(reason)[0];
  if (kind === "policy") return "rule " + about.rule + " of " + about.policy + (about.tier ? " in tier " + about.tier : "");
  if (kind === "profile") return "rule " + about.rule + " of profile " + about.profile;
  return kind === "end_of_tier" ? "end of tier " + about.tier : kind;
}
function flows() {
  const { flows: known } = state.data;
  if (!known) return panel("Flows", null, missing("flows") || el("p", { class: "empty" }, "Reading."));
  const rows = [...known.flows].reverse().slice(0, 300).map((flow) => [
    clock(flow.last_ms), chip(flow.verdict.replace("_", " "), VERDICTS[flow.verdict] || ""),
    ["mono", flow.source], ["mono", flow.destination],
    (PROTOCOLS[flow.protocol] || flow.protocol) + (flow.port && flow.protocol !== 1 && flow.protocol !== 58 ? " " + flow.port : ""),
    flow.ingress ? "in" : "out", flow.endpoint.replace("WorkloadEndpoint/", ""), why(flow.reason),
    ["number", number(flow.packets)],
  ]);
  return [
    known.problem && el("ul", { class: "trouble" }, el("li", { class: "warn" }, known.problem)),
    panel("Flows", "recorded: " + known.capture + ", gathered for " + known.interval_secs + " s"
      + (known.lost > 0 ? ", " + plural(known.lost, "packet") + " too fast to see" : ""), filterBox(),
      table(["Last", "Verdict", "From", "To", "What", "Way", "Endpoint", "Decided by", "#Packets"], rows,
        "No packet has come to a rule yet.")),
  ];
}

function tabs() {
  const { node, peers, flows: known } = state.data;
  const down = (peers || []).filter((peer) => !isUp(peer)).length;
  const counts = {
    sessions: peers && [down > 0 ? peers.length - down + " / " + peers.length : number(peers.length), down > 0], routes: node && [node.status.dataplane.routes, false],
    endpoints: node && [node.status.dataplane.endpoints, false], flows: known && denied(known) > 0 && [denied(known), true],
  };
  const bar = document.getElementById("tabs");
  const focused = bar.contains(document.activeElement);
  bar.replaceChildren(...VIEWS.map((view) => {
    const count = counts[view.id];
    const selected = view.id === state.tab;
    return el("button", { role: "tab", id: "tab-" + view.id, "aria-selected": String(selected), "aria-controls": "view",
      tabindex: selected ? "0" : "-1", on: { click: () => open(view.id) } }, view.name,
    count && el("span", { class: "count" + (count[1] ? " bad" : "") },
      typeof count[0] === "number" ? number(count[0]) : count[0]));
  }));
  if (focused) document.getElementById("tab-" + state.tab).focus();
}

function draw() {
  const { node } = state.data;
  const verdict = document.getElementById("verdict");
  const beat = document.getElementById("beat");
  const age = document.getElementById("age");
  beat.className = "beat " + (state.failed ? "off" : state.paused ? "" : "on");
  age.textContent = state.failed ? state.failed : state.paused ? "paused at " + clock(state.at)
    : state.at ? "read at " + clock(state.at) : "not read yet";
  if (!node) return;
  const found = troubles();
  const worst = found.some(([, , kind]) => kind === "bad") ? "bad" : found.length > 0 ? "warn" : "good";
  verdict.className = "verdict " + worst;
  verdict.textContent = worst === "good" ? "all is well" : plural(found.length, "thing") + " to look at";
  document.getElementById("node").textContent = node.status.node + (node.addresses.length ? " · " + node.addresses.join(", ") : "");
  document.getElementById("version").textContent = "margayd " + node.status.version;
  document.title = (worst === "good" ? "" : "● ") + node.status.node + " · Margay";
  tabs();
  const main = document.getElementById("view");
  const focus = focused(main);
  const view = VIEWS.find((known) => known.id === state.tab);
  main.setAttribute("aria-labelledby", "tab-" + view.id);
  const panels = () => [...main.querySelectorAll(".panel")];
  const again = document.body.dataset.view === state.tab;
  const scrolled = again ? panels().map((panel) => panel.scrollLeft) : [];
  main.replaceChildren(...[view.draw()].flat().filter(Boolean));
  // In a narrow window a wide panel stays where the reader has moved it; a map begins in its middle.
  panels().forEach((panel, i) => {
    const middle = panel.querySelector("svg.map") ? (panel.scrollWidth - panel.clientWidth) / 2 : 0;
    panel.scrollLeft = scrolled[i] ?? middle;
  });
  restore(main, focus);
  document.body.dataset.view = state.tab;
  document.body.dataset.health = worst;
}
// Drawing anew must not take the place away from whoever is in a field or on a row.
function focused(main) {
  const active = document.activeElement;
  if (!active || !main.contains(active)) return null;
  if (active.id) return { id: active.id, at: active.selectionStart };
  return { index: [...main.querySelectorAll("[tabindex='0']")].indexOf(active) };
}
function restore(main, focus) {
  if (!focus) return;
  const again = focus.id ? document.getElementById(focus.id) : main.querySelectorAll("[tabindex='0']")[focus.index];
  if (!again) return;
  again.focus({ preventScroll: true });
  if (focus.id && again.setSelectionRange && focus.at !== null) again.setSelectionRange(focus.at, focus.at);
}

let reading = false;
async function refresh() {
  if (reading) return;
  reading = true;
  const view = VIEWS.find((known) => known.id === state.tab);
  try {
    state.data.node = await read("node");
    const asks = new Set([...view.asks, ...ALWAYS]);
    if (Date.now() - state.clusterAt > CLUSTER_EVERY) asks.add("cluster");
    if (asks.has("cluster")) state.clusterAt = Date.now();
    await Promise.all([...asks].map(async (what) => {
      const path = what === "policy" ? "policy?port=" + state.port : what;
      try {
        state.data[what] = await read(path);
        delete state.data[what + "!"];
      } catch (error) {
        delete state.data[what];
        state.data[what + "!"] = error.message;
      }
    }));
    state.at = Date.now();
    state.failed = "";
  } catch (error) {
    state.failed = "the agent does not answer";
  }
  reading = false;
  draw();
  if (!state.failed) document.body.dataset.ready = view.id;
}

function open(id) {
  state.tab = id;
  state.filter = "";
  history.replaceState(null, "", "#" + id);
  draw();
  refresh();
}
function step(by) {
  const at = VIEWS.findIndex((view) => view.id === state.tab);
  open(VIEWS[(at + by + VIEWS.length) % VIEWS.length].id);
  document.getElementById("tab-" + state.tab).focus();
}
document.addEventListener("keydown", (event) => {
  const box = document.getElementById("filter");
  if (event.key === "Escape" && document.activeElement === box) {
    state.filter = "";
    box.value = "";
    draw();
    return;
  }
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName)) return;
  const digit = VIEWS[Number(event.key) - 1];
  if (digit) open(digit.id);
  else if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "/" && box) { event.preventDefault(); box.focus(); }
  else if (event.key === "p") { state.paused = !state.paused; draw(); }
  else if (event.key === "?") document.getElementById("help").showModal();
});
window.addEventListener("hashchange", () => {
  const view = VIEWS.find((known) => "#" + known.id === location.hash);
  if (view && view.id !== state.tab) open(view.id);
});
const first = VIEWS.find((known) => "#" + known.id === location.hash);
if (first) state.tab = first.id;
refresh();
setInterval(() => { if (!state.paused && !document.hidden) refresh(); }, EVERY);
