#include "cairn/report/page.h"

namespace cairn::report {

std::string_view page_style() {
  return R"css(
:root { color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #1b232c; --muted: #586471; --grid: #e3e7ec; --edge: #dde2e8; --accent: #0f62b4; --code: #f0f2f5;
  --c0: #0f62b4; --c1: #c64a08; --c2: #0b7a63; --c3: #93388a; --c4: #8a6200; --c5: #4a4bb8; --c6: #5b6470; --c7: #ad1f3c; }
@media (prefers-color-scheme: dark) { :root {
  --page: #11161c; --card: #1a2129; --ink: #e8ecf0; --muted: #9dabb8; --grid: #2c3641; --edge: #2c3641; --accent: #79b8f5; --code: #232c36;
  --c0: #6cb2f2; --c1: #f39a60; --c2: #4cc9a6; --c3: #dc98d2; --c4: #e2bf58; --c5: #a3a7f7; --c6: #b4bfca; --c7: #f58a99; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans",
  "Liberation Sans", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 56px; }
.brand { margin: 0 0 10px; font-size: 13px; font-weight: 600; letter-spacing: .09em; text-transform: uppercase; color: var(--muted); }
h1 { margin: 0; max-width: 60rem; font-size: clamp(19px, 1.05rem + .75vw, 27px); line-height: 1.38; font-weight: 600; letter-spacing: -.008em;
  overflow-wrap: anywhere; text-wrap: pretty; }
h1.many { font-size: clamp(17px, .98rem + .4vw, 21px); }
h1 span { display: block; } h1 span + span { margin-top: .55em; }
h2 { margin: 46px 0 4px; font-size: 21px; line-height: 1.3; letter-spacing: -.005em; }
h3 { margin: 26px 0 8px; font-size: 16px; overflow-wrap: anywhere; }
p.note { margin: 0 0 14px; max-width: 52rem; color: var(--muted); font-size: 15px; }
ul.notes { margin: 8px 0 14px; padding-left: 20px; color: var(--muted); font-size: 15px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 10px; margin: 24px 0 0; padding: 0; }
.tiles div { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 11px 14px 12px; }
.tiles dt { color: var(--muted); font-size: 13px; line-height: 1.35; }
.tiles dd { margin: 3px 0 0; font-size: 21px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 14px; }
.grid.two { grid-template-columns: repeat(2, minmax(0, 1fr)); } .grid.one { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0; min-width: 0; background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 13px 14px 10px; }
figure.plain { background: none; border: 0; padding: 0; margin-bottom: 10px; max-width: 330px; }
figcaption { margin: 0 0 8px; font-size: 15px; font-weight: 600; line-height: 1.3; overflow-wrap: anywhere; }
figcaption small { font-size: 13px; font-weight: 400; color: var(--muted); }
.pan { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
.pan svg { min-width: var(--least, 0); max-width: var(--most, none); }
.narrow { display: none; }
.tip { cursor: default; outline: none; }
.tip:focus-visible { outline: 2px solid var(--accent); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--edge); border-radius: 10px; margin: 0 0 14px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 10px 14px 6px; font-weight: 600; font-size: 15px; }
th, td { padding: 6px 7px; text-align: right; white-space: nowrap; border-top: 1px solid var(--grid); vertical-align: baseline; }
thead th { border-top: 0; color: var(--muted); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
td.good { font-weight: 600; } td small { color: var(--muted); font-size: 12px; font-weight: 400; }
th:first-child, td:first-child { padding-left: 14px; }
tbody tr.first td { border-top-color: var(--muted); } tbody tr.first:first-child td { border-top-color: var(--grid); }
details { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; margin: 0 0 10px; }
summary { cursor: pointer; padding: 10px 14px; font-weight: 600; font-size: 15px; overflow-wrap: anywhere; }
details .scroll { border: 0; border-top: 1px solid var(--grid); border-radius: 0 0 10px 10px; margin: 0; }
pre { margin: 0 0 14px; padding: 11px 14px; background: var(--code); border-radius: 8px; font: 13.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
details pre { margin: 0; border-radius: 0 0 10px 10px; max-height: 32rem; overflow: auto; }
footer { margin-top: 44px; padding-top: 14px; border-top: 1px solid var(--edge); color: var(--muted); font-size: 13.5px; overflow-wrap: anywhere; }
#bubble { position: fixed; z-index: 9; left: 0; top: 0; max-width: min(320px, 92vw); padding: 7px 10px; border-radius: 7px; background: #10171f; color: #f4f7fa;
  border: 1px solid #46525f; font-size: 13.5px; line-height: 1.4; white-space: pre-line; pointer-events: none; visibility: hidden; }
@media (max-width: 640px) {
  main { padding: 20px 14px 40px; }
  .wide { display: none; } .narrow { display: block; }
  .grid, .grid.two { grid-template-columns: minmax(0, 1fr); }
  h2 { margin-top: 36px; font-size: 19px; }
  figure { padding: 11px 10px 8px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } .tiles dd { font-size: 18px; }
}
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --muted: #444; --grid: #ccc; --edge: #ccc; --code: #f4f4f4;
    --c0: #0f62b4; --c1: #c64a08; --c2: #0b7a63; --c3: #93388a; --c4: #8a6200; --c5: #4a4bb8; --c6: #5b6470; --c7: #ad1f3c; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  figure, .tiles div, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll, .pan { overflow: visible; } table { font-size: 8.5pt; } th, td { padding: 3px 5px; white-space: normal; }
  .grid, .grid.two { grid-template-columns: repeat(2, minmax(0, 1fr)); } .wide { display: block; } .narrow { display: none; }
  .pan svg { min-width: 0; }
}
)css";
}

std::string_view page_script() {
  // Native tooltips need a mouse and patience; these follow the pointer, and come on a tap. The texts stay readable for screen readers as
  // aria-label.
  return R"js(
(function () {
  var bubble = document.createElement("div"), shown = null;
  bubble.id = "bubble"; bubble.setAttribute("aria-hidden", "true"); document.body.appendChild(bubble);
  document.querySelectorAll("svg").forEach(function (svg) {
    var title = svg.querySelector(":scope > title"), text = svg.querySelector(":scope > desc");
    if (title) { svg.setAttribute("aria-label", title.textContent + ". " + (text ? text.textContent : "")); svg.removeAttribute("aria-labelledby"); title.remove(); }
  });
  document.querySelectorAll(".tip").forEach(function (mark) {
    var title = mark.querySelector(":scope > title");
    if (!title) return;
    mark.setAttribute("data-tip", title.textContent); mark.setAttribute("aria-label", title.textContent); mark.setAttribute("role", "img"); title.remove();
  });
  function hide() { bubble.style.visibility = "hidden"; shown = null; }
  function show(event) {
    var mark = event.target.closest ? event.target.closest(".tip") : null;
    if (!mark || !mark.hasAttribute("data-tip")) { if (shown) hide(); return; }
    if (mark !== shown) { bubble.textContent = mark.getAttribute("data-tip"); shown = mark; }
    var width = bubble.offsetWidth, height = bubble.offsetHeight, x = event.clientX + 14, y = event.clientY + 14;
    if (x + width > innerWidth - 6) x = Math.max(6, event.clientX - width - 14);
    if (y + height > innerHeight - 6) y = Math.max(6, event.clientY - height - 14);
    bubble.style.transform = "translate(" + x + "px," + y + "px)"; bubble.style.visibility = "visible";
  }
  document.addEventListener("pointermove", show); document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", hide, true); document.addEventListener("keydown", hide);
  addEventListener("beforeprint", function () { hide(); document.querySelectorAll("details").forEach(function (d) { d.open = true; }); });
})();
)js";
}

}  // namespace cairn::report
