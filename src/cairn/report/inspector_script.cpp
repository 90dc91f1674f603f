#include "cairn/report/inspector.h"

namespace cairn::report {

std::string_view inspector_guard() {
  return R"js(window.onerror = function (message) { document.documentElement.dataset.error = String(message); };)js";
}

std::string_view inspector_script() {
  // Texts of the file only ever become text nodes and attribute values here, never markup.
  return R"js(
(function () {
  "use strict";
  var kShown = 5, file = json("file"), blocks = {}, tokens = {}, now = {q: -1, t: -1, c: -1};

  function json(id) { return JSON.parse(document.getElementById(id).textContent); }
  function chunkAt(place) {
    var b = Math.floor(place / file.block), c;
    c = (blocks[b] = blocks[b] || json("k" + b))[place % file.block];
    return {number: file.numbers[place], document: c[0], begin: c[1], end: c[2], before: c[3], text: c[4], after: c[5]};
  }
  function placeOf(number) {
    var low = 0, high = file.numbers.length - 1;
    while (low <= high) {
      var middle = (low + high) >> 1;
      if (file.numbers[middle] === number) return middle;
      if (file.numbers[middle] < number) low = middle + 1; else high = middle - 1;
    }
    return -1;
  }
  function section(q) { return document.getElementById("q" + q); }
  function token(q, t) { return section(q).querySelector('.tok[data-t="' + t + '"]'); }
  function tokensOf(q) { return tokens[q] = tokens[q] || json("d" + q); }

  function make(name, kind, text) {
    var element = document.createElement(name);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  }
  function draw(name, attributes) {
    var element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.keys(attributes).forEach(function (key) { element.setAttribute(key, attributes[key]); });
    return element;
  }
  function thousands(n) { return String(n).replace(/\B(?=(\d{3})+$)/g, ","); }
  function percent(share) {
    var value = share * 100;
    if (Math.abs(value - Math.round(value)) < .005) return Math.round(value) + " %";
    if (value > 99.9) return ">99.9 %";
    if (value < .1) return "<0.1 %";
    return value.toFixed(1).replace(/\.0$/, "") + " %";
  }
  function shortened(text) {
    var letters = Array.from(text.replace(/\s+/g, " ").trim());
    return letters.length > 170 ? letters.slice(0, 170).join("") + "\u2026" : letters.join("");
  }
  function where(c) {
    if (c.document < 0) return "written while answering, chunk " + thousands(c.number);
    return file.documents[c.document][0] + ", bytes " + thousands(c.begin) + "\u2013" + thousands(c.end);
  }
  function color(retrieval) { return "var(--c" + retrieval % 8 + ")"; }
  function setHash(q, t, c) {
    var hash = q < 0 ? "" : "#q=" + q + (t >= 0 ? "&t=" + t : "") + (c >= 0 ? "&c=" + c : "");
    try { history.replaceState(null, "", hash || location.pathname + location.search); } catch (refused) { if (hash) location.hash = hash; }
  }

  function readRow(c, weight, retrieval) {
    var row = make("button", "read"), bar = make("span", "bar"), fill = make("b");
    row.type = "button"; row.dataset.c = c.number;
    fill.style.width = Math.min(100, weight * 100).toFixed(1) + "%"; bar.append(fill);
    var said = make("span", "said", shortened(c.text)); said.dir = "auto";
    row.append(bar, make("span", "share", percent(weight)), make("span", "from", where(c)), said);
    return row;
  }
  function readList(list) {
    var box = make("div", "retrieval"), items = make("ol", "reads"), rest = make("ol", "reads"), sum = 0, count = (list.length - 1) / 2;
    box.style.setProperty("--bar", color(list[0]));
    for (var i = 1; i < list.length; i += 2) {
      var entry = make("li");
      sum += list[i + 1];
      entry.append(readRow(chunkAt(list[i]), list[i + 1], list[0]));
      (i < 2 * kShown + 1 ? items : rest).append(entry);
    }
    var head = make("h3", "", "Retrieval " + (list[0] + 1) + " ");
    head.append(make("small", "", count + (count === 1 ? " chunk" : " chunks") + ", together " + percent(Math.min(1, sum))));
    box.append(head, items);
    if (count > kShown) {
      var more = make("button", "quiet", "show all " + count + " chunks");
      more.type = "button"; rest.hidden = true;
      more.addEventListener("click", function () { rest.hidden = false; more.remove(); });
      box.append(rest, more);
    }
    return box;
  }
  function spot(c) {
    var box = make("div", "spot"), quote = make("blockquote"), bytes = c.document < 0 ? -1 : file.documents[c.document][1];
    box.append(make("h3", "", "In its place"));
    box.append(make("p", "", where(c) + (bytes < 0 ? "" : " of " + thousands(bytes) + "; chunk " + thousands(c.number))));
    quote.dir = "auto";
    if (c.begin === 0 && bytes >= 0) quote.append(make("span", "edge", "start of the text\n"));
    quote.append(make("span", "near", c.before), make("mark", "", c.text), make("span", "near", c.after));
    if (c.end === bytes) quote.append(make("span", "edge", "\nend of the text"));
    box.append(quote);
    return box;
  }
  function marks(lists, strip) {
    var group = draw("g", {"class": "now"});
    lists.forEach(function (list) {
      var most = list[2] || 1;
      for (var i = list.length - 2; i > 0; i -= 2) {  // the heaviest last, on top
        var number = file.numbers[list[i]], x = Math.min(997, Math.max(3, (number + .5) / file.total * 1000)).toFixed(2), y = list[0] * file.lane + 1;
        var mark = draw("path", {"class": "m", d: "M" + x + " " + y + "v" + (file.lane - 2), stroke: color(list[0]),
          "stroke-opacity": (.25 + .75 * list[i + 1] / most).toFixed(2), "data-c": number});
        var tip = draw("title", {});
        tip.textContent = percent(list[i + 1]) + " of retrieval " + (list[0] + 1) + ": " + where(chunkAt(list[i]));
        mark.append(tip); group.append(mark);
      }
    });
    strip.append(group);
  }

  function clear() {
    if (now.q < 0) return;
    var old = section(now.q), group = old.querySelector(".strip .now");
    old.classList.remove("on", "at");
    old.querySelector(".panel").replaceChildren();
    if (group) group.remove();
    old.querySelectorAll("[aria-pressed]").forEach(function (button) { button.removeAttribute("aria-pressed"); });
    old.querySelectorAll(".read.open").forEach(function (row) { row.classList.remove("open"); });
    now = {q: -1, t: -1, c: -1};
  }
  // Shows chunk `c` (a number; -1: the heaviest) of the selected token or question.
  function open(q, t, c) {
    var box = section(q), panel = box.querySelector(".panel"), old = panel.querySelector(".spot"), place = placeOf(c);
    if (old) old.remove();
    box.querySelectorAll(".open").forEach(function (mark) { mark.classList.remove("open"); });
    panel.classList.toggle("alone", t < 0 || place < 0);
    if (place < 0) return;
    panel.append(spot(chunkAt(place)));
    box.querySelectorAll('[data-c="' + c + '"]').forEach(function (mark) { mark.classList.add("open"); });
    box.querySelectorAll('.top a[href$="&c=' + c + '"]').forEach(function (link) { link.classList.add("open"); });
    now.c = c;
  }
  // The whole selection: question, token (-1: none), chunk (-1: the heaviest of the token). False if the file does not hold it.
  function select(q, t, c) {
    var box = section(q);
    if (!box || (t >= 0 && !tokensOf(q)[t]) || (c >= 0 && placeOf(c) < 0)) return false;
    clear();
    now.q = q; now.t = t; box.classList.add("on"); box.hidden = false;
    if (t >= 0) {
      var read = tokensOf(q)[t], lists = read[1], button = token(q, t), panel = box.querySelector(".panel"), head = make("header"), line = make("p");
      box.classList.add("at");
      box.querySelectorAll('.tok[tabindex="0"]').forEach(function (other) { other.tabIndex = -1; });
      button.setAttribute("aria-pressed", "true"); button.tabIndex = 0;
      line.setAttribute("aria-live", "polite");
      line.append("Token " + (t + 1) + ", ", make("b", "", "\u201c" + button.textContent.trim() + "\u201d"), ", probability " + percent(read[0]) +
        (lists.length ? "; it read:" : "; it read no chunk."));
      var back = make("button", "quiet", "whole answer"); back.type = "button";
      back.addEventListener("click", leave);
      head.append(line, back); panel.append(head);
      if (lists.length) {
        var columns = make("div", "lists");
        lists.forEach(function (list) { columns.append(readList(list)); });
        panel.append(columns);
        marks(lists, box.querySelector(".strip"));
        if (c < 0) c = file.numbers[lists.reduce(function (best, list) { return list[2] > best[2] ? list : best; })[1]];
      }
    }
    open(q, t, c);
    return true;
  }
  function leave() {
    var q = now.q, t = now.t;
    if (q < 0) return;
    clear(); setHash(-1);
    if (t >= 0) token(q, t).focus();
  }
  function apply() {
    var found = /^#q=(\d{1,9})(?:&t=(\d{1,9}))?(?:&c=(\d{1,16}))?$/.exec(location.hash);
    if (!found || !select(+found[1], found[2] === undefined ? -1 : +found[2], found[3] === undefined ? -1 : +found[3])) return false;
    if (now.t >= 0) token(now.q, now.t).focus({preventScroll: true});
    section(now.q).scrollIntoView({block: "start"});
    return true;
  }
  function choose(q, t) { if (select(q, t, -1)) setHash(q, t, -1); }
  function choosePlace(c) {
    open(now.q, now.t, c); setHash(now.q, now.t, c);
    section(now.q).querySelector(".spot").scrollIntoView({block: "nearest"});
  }

  document.addEventListener("click", function (event) {
    var at = event.target.closest(".tok, .read[data-c], .now .m");
    if (!at) return;
    if (at.classList.contains("tok")) choose(+at.closest(".q").dataset.q, +at.dataset.t); else choosePlace(+at.dataset.c);
  });
  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape" && now.q >= 0) { leave(); return; }
    var at = event.target.closest ? event.target.closest(".tok") : null;
    if (!at) return;
    var q = +at.closest(".q").dataset.q, t = +at.dataset.t, last = tokensOf(q).length - 1;
    var to = {ArrowRight: t + 1, ArrowLeft: t - 1, Home: 0, End: last}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    to = Math.max(0, Math.min(last, to));
    token(q, to).focus(); choose(q, to);
  });
  addEventListener("hashchange", apply);

  var find = document.getElementById("find");
  if (find) {
    var sections = Array.from(document.querySelectorAll(".q")), words = null;
    find.closest("p").hidden = false;
    find.addEventListener("input", function () {
      words = words || sections.map(function (s) { return (s.querySelector(".ask").textContent + "\n" + s.querySelector(".answer").textContent).toLowerCase(); });
      var wanted = find.value.toLowerCase(), count = 0;
      sections.forEach(function (s, i) { s.hidden = !words[i].includes(wanted); if (!s.hidden) ++count; });
      find.parentNode.querySelector("output").textContent = wanted ? count + " of " + sections.length : "";
    });
  }

  // Without an address of its own the page opens on the first token that has read something.
  if (!apply() && section(0)) {
    var first = tokensOf(0).findIndex(function (read) { return read[1].length > 0; });
    if (first >= 0) select(0, first, -1);
  }
  document.documentElement.dataset.ready = "1";
})();
)js";
}

}  // namespace cairn::report
