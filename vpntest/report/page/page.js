"use strict";
// Strangers' names stand in the data: everything is set as text, nothing is ever read as HTML.
(() => {
  const core = JSON.parse(document.getElementById("core").textContent);
  const wanted = (navigator.languages || [navigator.language]).map((one) => one.toLowerCase().split("-")[0]);
  const language = wanted.find((one) => core.languages.includes(one)) || core.languages[0];
  const words = core.words[language];
  const place = core.languages.indexOf(language);
  const matrix = document.getElementById("matrix");
  const dialog = document.getElementById("cell");
  const body = document.getElementById("cell-body");

  // ── words ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  // The nodes of a text of the catalogue, with each thing that is put in set apart from the sentence's direction.
  const say = (key, ...putIn) =>
    words[key].split(/(\{\d\})/).map((part) => {
      const slot = /^\{(\d)\}$/.exec(part);
      return slot ? make("bdi", {}, putIn[slot[1]]) : part;
    });
  const told = (key, ...putIn) => words[key].replace(/\{(\d)\}/g, (_, slot) => `\u2068${putIn[slot]}\u2069`);
  const reason = (rule) => (core.rules[rule] ? core.rules[rule][place] : rule);
  const word = (state) => make("span", { class: `sign ${state}` }, words[`word.${state}`]);
  const ltr = (text) => make("span", { lang: "en", dir: "ltr" }, text);

  function make(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== "").map((one) => (one instanceof Node ? one : String(one))));
    return node;
  }

  function translate() {
    document.documentElement.lang = language;
    document.documentElement.dir = words.dir;
    document.title = document.title.replace(core.words[core.languages[0]].title, words.title);
    for (const node of document.querySelectorAll("[data-t]")) {
      node.replaceChildren(...say(node.dataset.t, ...JSON.parse(node.dataset.p || "[]")));
    }
    for (const node of document.querySelectorAll("[data-r]")) node.textContent = reason(node.dataset.r);
    for (const node of document.querySelectorAll("#matrix button")) node.firstChild.data = words[`word.${node.className}`];
    for (const how of ["reached", "failed"]) {
      for (const node of document.querySelectorAll(`.rung.${how} > span`)) node.textContent = words[`rung.is.${how}`];
    }
    for (const node of document.querySelectorAll("[data-w]")) node.textContent = words[`word.${node.classList[1]}`];
  }
  if (place) translate();

  // ── the matrix under the keys ──────────────────────────────────────────────────────────────────────────────────────

  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [-10, 0], PageDown: [10, 0] };
  function move(button, event) {
    const inline = document.documentElement.dir === "rtl" ? -1 : 1;
    const rows = matrix.tBodies[0].rows;
    const cell = button.parentElement;
    let row = cell.parentElement.sectionRowIndex;
    let column = cell.cellIndex;
    const last = rows[row].cells.length - 1;
    if (steps[event.key]) row += steps[event.key][0];
    else if (event.key === "ArrowLeft") column -= inline;
    else if (event.key === "ArrowRight") column += inline;
    else if (event.key === "Home") [column, row] = [1, event.ctrlKey ? 0 : row];
    else if (event.key === "End") [column, row] = [last, event.ctrlKey ? rows.length - 1 : row];
    else return;
    event.preventDefault();
    row = Math.min(Math.max(row, 0), rows.length - 1);
    column = Math.min(Math.max(column, 1), last);
    const next = rows[row].cells[column].firstElementChild;
    hold(next);
    next.focus();
  }
  let held = matrix && matrix.querySelector("button");
  function hold(button) {
    held.tabIndex = -1;
    button.tabIndex = 0;
    held = button;
  }
  if (matrix) {
    document.getElementById("hint").hidden = false;
    document.getElementById("noscript").hidden = true;
    // The line's own row stays in sight beneath the head, which is as high as its names need.
    const head = matrix.tHead.rows[0];
    new ResizeObserver(() => matrix.style.setProperty("--head", `${head.offsetHeight}px`)).observe(head);
    matrix.addEventListener("keydown", (event) => {
      if (event.target.localName === "button") move(event.target, event);
    });
    matrix.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) {
        hold(button);
        open(button);
      }
    });
  }
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    // It is told of later: another cell may be open by then.
    if (dialog.open) return;
    body.replaceChildren();
    document.getElementById("cell-head").replaceChildren();
  });

  // ── a cell's page ──────────────────────────────────────────────────────────────────────────────────────────────────

  let unpacked = null;
  function unpack() {
    unpacked ||= (async () => {
      const packed = atob(document.getElementById("details").textContent);
      const bytes = Uint8Array.from(packed, (one) => one.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
      return new Response(stream).json();
    })();
    return unpacked;
  }

  let asked = 0;
  async function open(button) {
    const now = ++asked;
    const row = button.closest("tr").sectionRowIndex;
    const column = button.parentElement.cellIndex - 1;
    const platform = matrix.tHead.rows[0].cells[column + 1].firstChild.textContent;
    const name = row ? matrix.tBodies[0].rows[row].cells[0].firstChild.textContent : "outside";
    document.getElementById("cell-head").replaceChildren(
      ...(row ? say("cell.title", platform, name) : say("cell.title.outside", platform)), " ", word(button.className));
    body.replaceChildren(make("p", { role: "status" }, words["cell.reading"]));
    dialog.showModal();
    dialog.scrollTop = 0;
    document.getElementById("cell-head").focus();
    let parts;
    try {
      parts = page(await unpack(), row, column, platform, name);
    } catch (error) {
      console.error(error);
      parts = [make("p", {}, words["cell.cannot"])];
    }
    if (now === asked && dialog.open) body.replaceChildren(...parts);
  }

  function page(all, row, column, platform, name) {
    const outside = all.outside[column];
    const parts = [];
    if (row) {
      const [rule, inside] = all.cells[row - 1][column];
      parts.push(make("div", { class: "part" }, ruled([rule])));
      parts.push(
        inside
          ? verdict(all, inside, outside, row, column, say("cell.inside", name))
          : make("div", { class: "part" }, make("h3", {}, say("cell.inside", name)), make("p", {}, words["cell.not"])));
      parts.push(tunnel(all, all.tunnels[row - 1]));
    }
    parts.push(verdict(all, outside, null, 0, column, words["cell.outside"]));
    const { otherwise } = all;
    const number = row ? otherwise.cells[row - 1][column] ?? otherwise.tunnels[row - 1] : otherwise.outside[column];
    parts.push(changes(number === null ? null : otherwise.cases[number], name, platform));
    return parts;
  }

  // ── what would have changed it ─────────────────────────────────────────────────────────────────────────────────────

  function changes(known, name, platform) {
    const head = make("h3", {}, words.otherwise);
    if (!known) return make("div", { class: "part" }, head, make("p", {}, say("otherwise.by", make("code", { dir: "ltr" }, `vpntest explain RUN '${name}' '${platform}'`))));
    const [tried, list] = known;
    return make("div", { class: "part" }, head,
      make("p", { class: "quiet" }, words["otherwise.how"], tried === name ? "" : [" ", say("otherwise.alike", tried)]),
      list.length ? make("ul", { class: "changes" }, list.map(change)) : make("p", {}, words["otherwise.nothing"]));
  }

  function change([key, [vantage, ...more], then]) {
    const at = vantage === undefined ? [] : [vantage === "outside" ? words["where.outside"] : say("where.inside", vantage)];
    // The cell's own outcome stands beside the condition, and its reasons beneath.
    const [whole, parts] = [then.filter(([part]) => part === "cell"), then.filter(([part]) => part !== "cell")];
    return make("li", {}, say(key, ...at, ...more), ": ", whole.map(([, state]) => word(state)), parts.map((one) => make("div", { class: "rule" }, ...would(one))));
  }

  function would([part, state, mechanism, rule]) {
    const why = rule ? make("small", {}, reason(rule), " ", make("code", {}, rule)) : "";
    const what = mechanism ? make("code", {}, mechanism) : "";
    if (part === "line") return [say("then.line", reason(rule))];
    if (part === "tunnel") return [say("then.tunnel", words[`rung.${state}`] || words.nothing, what || words["then.well"]), why];
    return state ? [say(`then.${part}`, [word(state), " ", what]), why] : [words["then.unjudged"]];
  }

  // ── the parts of a cell's page ─────────────────────────────────────────────────────────────────────────────────────

  const ruled = (rules) =>
    rules.map((rule) =>
      make("div", { class: "rule" }, make("div", {}, reason(rule)),
        make("small", {}, say("rule", make("code", {}, rule)), ". ", core.rules[rule] ? say("source", ltr(core.rules[rule][core.languages.length])) : "")));

  function tunnel(all, one) {
    return make("div", { class: "part" },
      make("h3", {}, say("cell.tunnel", one.name)),
      make("p", { class: "verdict" }, make("span", {}, say("cell.stage", words[`rung.${one.stage}`] || words.nothing)),
        one.mechanism ? make("code", {}, one.mechanism) : "", one.detail ? ltr(one.detail) : ""),
      make("p", {}, say("cell.to", one.kind, one.source, one.carrier || "–", one.servers.join(", ") || "–")),
      one.problem ? make("p", {}, ltr(one.problem)) : "",
      one.rule ? ruled([one.rule]) : "",
      witnesses(all, one.witnesses));
  }

  function verdict(all, one, other, row, column, head) {
    const [k, n] = one.tries;
    return make("div", { class: "part" },
      make("h3", {}, head),
      make("p", { class: "verdict" }, word(one.state), one.mechanism ? make("code", {}, one.mechanism) : "",
        n ? make("span", {}, say("cell.tries", k, n)) : "", one.detail ? ltr(one.detail) : ""),
      one.partial ? make("p", {}, words["cell.partial"]) : "",
      ruled(one.rules),
      one.services.length > 1 ? table(words.services, ["service", "state", "mechanism", "rule.head"],
        one.services.map(([service, state, mechanism, rule]) => [make("bdi", {}, service), words[`word.${state}`], make("code", {}, mechanism || "–"), make("code", {}, rule)])) : "",
      speed(one), compared(all, one, row, column), timings(one, other), witnesses(all, one.witnesses));
  }

  function table(caption, heads, rows, classes = []) {
    return make("div", { class: "in", role: "group", tabindex: "0", "aria-label": caption },
      make("table", {}, make("caption", {}, caption),
        make("thead", {}, make("tr", {}, heads.map((key, at) => make("th", classes[at] ? { scope: "col", class: "number" } : { scope: "col" }, words[key])))),
        make("tbody", {}, rows.map((cells) => make("tr", cells.failed ? { class: "failed" } : {},
          cells.map((cell, at) => (at ? make("td", classes[at] ? { class: "number" } : {}, cell) : make("th", { scope: "row" }, cell))))))));
  }

  function compared(all, one, row, column) {
    const seen = one.compared;
    const lines = [];
    const end = ([key, layer, failure, number]) => told(`end.${key}`, number, layer, failure);
    const made = seen.ends.reduce((sum, [, , , number]) => sum + number, 0);
    if (made) lines.push(say("compared.tries", made, seen.ends.map(end).join(", ")));
    for (const key of ["neutral", "alternate", "browser"]) if (seen[key]) lines.push(say(`compared.${key}`, ...seen[key], all.neutral));
    const names = seen.names.map((answers) => (answers ? answers.join(", ") || words.nothing : words["not.asked"]));
    if (seen.names.some(Boolean)) lines.push(say("compared.names", ...names));
    const elsewhere = {};
    [all.outside[column], ...all.cells.map((cells) => cells[column] && cells[column][1])].forEach((there, place) => {
      if (there && place !== row) (elsewhere[there.state] ||= []).push(where(all, place));
    });
    const list = Object.entries(elsewhere).map(([state, places]) =>
      `${words[`word.${state}`]}: ${places.slice(0, 12).join(", ")}${places.length > 12 ? ` … (${places.length})` : ""}`);
    if (list.length) lines.push(say("compared.elsewhere", list.join("; ")));
    if (seen.controls[0] + seen.controls[1]) lines.push(say("compared.controls", ...seen.controls));
    return lines.length ? [make("h4", {}, words.compared), make("ul", {}, lines.map((line) => make("li", {}, line)))] : "";
  }

  const where = (all, place) => (place > 0 ? all.tunnels[place - 1].name : place ? "?" : words.outside);

  function timings(one, other) {
    const seen = ["resolve", "connect", "tls_handshake", "quic_handshake", "stun_binding", "http_round_trip"].filter((step) => one.timings[step]);
    if (!seen.length) return "";
    const took = (from, step) => (from.timings[step] ? told("timings.number", ...from.timings[step]) : "–");
    return table(words.timings, ["timings.step", other ? "timings.here" : "cell.outside", ...(other ? ["cell.outside"] : [])],
      seen.map((step) => [words[`op.${step}`], took(one, step), ...(other ? [took(other, step)] : [])]), [0, 1, 1]);
  }

  function witnesses(all, rows) {
    if (!rows.length) return "";
    const box = make("details", {}, make("summary", {}, say("witnesses", rows.length)));
    // Made when it is looked at: a verdict may stand on many.
    box.addEventListener("toggle", () => {
      if (box.open && box.childElementCount === 1) box.append(evidence(all, rows));
    });
    return box;
  }

  function evidence(all, rows) {
    return table(told("witnesses", rows.length), ["w.t0", "w.where", "w.what", "w.asked", "w.came", "w.took", "w.bytes"], rows.map((place) => {
      const [id, t0, took, vantage, role, attempt, what, asked, came, failure, bytes] = all.observations[place];
      const about = [words[`role.${role}`], attempt ? told("w.try", attempt) : ""].filter(Boolean).join(", ");
      const cells = [
        [t0.toFixed(2), make("small", {}, id)], make("bdi", {}, where(all, vantage)), [words[`is.${what}`], about ? make("small", {}, about) : ""],
        make("bdi", {}, asked), [failure ? make("code", {}, `✗ ${failure}`) : came ? "" : words["w.ok"], " ", make("bdi", {}, came)], took, bytes === null ? "–" : bytes];
      cells.failed = Boolean(failure);
      return cells;
    }), [0, 0, 0, 0, 0, 1, 1]);
  }

  // ── speed ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  function speed(one) {
    const rounds = ["speed.first", "speed.confirm"];
    if (!one.compared.speed.length) return "";
    return [make("h4", {}, words.speed), rounds.map((key, round) => {
      const medians = one.compared.speed[round];
      if (!medians) return "";
      const [number, ...those] = medians;
      const drawn = one.transfers.filter((transfer) => transfer[1] === round);
      if (!those[0] && !drawn.length) return make("p", {}, say("speed.none", number));
      return [
        drawn.length ? plot(drawn, words[key]) : "",
        those[0] ? table(words[key], ["speed.who", "speed.median", "speed.number", "speed.chance"],
          ["speed.own", "speed.neutral", "speed.control"].map((who, at) => those[at] && [words[who], figure(those[at][0]), those[at][1], those[at][2] || "–"]).filter(Boolean), [0, 1, 1, 1])
          : make("p", {}, say("speed.none", number))];
    })];
  }

  const figure = (one) => one.toLocaleString(language, { maximumFractionDigits: 1 });

  function plot(transfers, title) {
    const width = 640, height = 240, left = 62, right = 14, top = 12, bottom = 40;
    const rates = transfers.flatMap(([, , , , rate, moments]) => [rate, ...moments.map(([, one]) => one)]).filter((one) => one > 0);
    const low = Math.floor(Math.log10(Math.max(1, Math.min(...rates, 100))));
    const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...rates, 1000))));
    const begin = Math.min(...transfers.map(([, , t0]) => t0));
    const end = Math.max(...transfers.map(([, , t0, took]) => t0 + took), begin + 0.01);
    const x = (t) => left + ((t - begin) / (end - begin)) * (width - left - right);
    const y = (rate) => height - bottom - ((Math.log10(Math.max(rate, 10 ** low)) - low) / (high - low)) * (height - top - bottom);
    const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told("plot", title) });
    for (let power = low; power <= high; power++) {
      const at = y(10 ** power);
      svg.append(drawing("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
      svg.append(drawing("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, (10 ** power).toLocaleString(language)));
    }
    const digits = end - begin < 1 ? 2 : 1;
    for (let tick = 0; tick <= 4; tick++) {
      const t = begin + ((end - begin) * tick) / 4;
      svg.append(drawing("text", { x: x(t), y: height - bottom + 16, "text-anchor": tick === 4 ? "end" : "middle" }, t.toFixed(digits)));
    }
    svg.append(drawing("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, words["plot.x"]));
    for (const [neutral, , t0, took, rate, moments] of transfers) {
      const kind = neutral ? "neutral" : "target";
      const points = moments.length ? moments.map(([t, one]) => [t0 + Math.min(t, took), one]) : [[t0 + took, rate]];
      const path = `M${x(t0).toFixed(1)} ${y(points[0][1]).toFixed(1)}` + points.map(([t, one]) => `L${x(t).toFixed(1)} ${y(one).toFixed(1)}`).join("");
      svg.append(drawing("path", { class: kind, d: path }));
      const [t, one] = points[points.length - 1];
      svg.append(neutral
        ? drawing("rect", { class: kind, x: x(t) - 4, y: y(one) - 4, width: 8, height: 8, "fill-opacity": 0.25 })
        : drawing("circle", { class: kind, cx: x(t), cy: y(one), r: 4 }));
    }
    return make("figure", {}, make("div", { class: "in", role: "group", tabindex: "0", "aria-label": title }, svg), make("figcaption", {}, make("span", {}, `${title}, ${words["plot.y"]}`),
      make("span", { class: "t" }, words["speed.own"]), make("span", { class: "n" }, words["speed.neutral"])));
  }

  function drawing(name, attributes, text = "") {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  }
})();
