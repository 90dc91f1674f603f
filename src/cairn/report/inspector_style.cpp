#include "cairn/report/inspector.h"

namespace cairn::report {

std::string_view inspector_style() {
  return R"css(
:root { --sure: 15 98 180; --found: #ffe9a8; --foundink: #3a2c00; --band: #dce2e9; }
@media (prefers-color-scheme: dark) { :root { --sure: 108 178 242; --found: #5c4a12; --foundink: #fff3cf; --band: #36414d; } }
.shared { position: absolute; width: 0; height: 0; }
.find { margin: 16px 0 0; font-size: 15px; } .find input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--edge);
  border-radius: 7px; padding: 5px 9px; width: min(22rem, 100%); } .find output { color: var(--muted); }
.q { margin: 22px 0 0; padding: 16px 18px 18px; background: var(--card); border: 1px solid var(--edge); border-radius: 10px; content-visibility: auto;
  contain-intrinsic-size: auto 320px; scroll-margin-top: 10px; }
.q.on { border-color: var(--accent); }
.q h2 { display: flex; gap: 10px; margin: 0 0 10px; font-size: 17px; line-height: 1.4; }
.q h2 .n { flex: none; min-width: 1.4em; color: var(--muted); font-weight: 400; font-variant-numeric: tabular-nums; }
.q h2 .ask { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 12em; overflow: auto; min-width: 0; }
.answer { font-size: 17px; line-height: 2; overflow-wrap: anywhere; }
.tok { font: inherit; line-height: 1.5; color: var(--ink); white-space: pre-wrap; overflow-wrap: anywhere; text-align: start; max-width: 100%; margin: 0 1px 0 0;
  padding: 1px 2px; min-width: 1.1em; border: 1px solid transparent; border-bottom: 2px solid rgb(var(--sure) / .35); border-radius: 5px 5px 2px 2px; cursor: pointer;
  background: rgb(var(--sure) / calc(.03 + .37 * var(--p))); }
.tok i { font-style: normal; color: var(--muted); }
.tok:hover { border-color: var(--accent); }
.tok[aria-pressed="true"] { outline: 2px solid var(--accent); outline-offset: 1px; border-radius: 5px; }
.tok:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }
.plain { margin: 4px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; } .plain small { color: var(--muted); }
.facts { margin: 4px 0 12px; color: var(--muted); font-size: 13.5px; }
.where { margin: 0 0 14px; }
.strip { width: 100%; border-radius: 4px; background: var(--code); overflow: hidden; cursor: default; }
.even { fill: var(--band); } .own { fill: var(--muted); fill-opacity: .4; }
.m { fill: none; stroke-width: 3px; vector-effect: non-scaling-stroke; }
.now .m { stroke-width: 5px; cursor: pointer; } .now .m.open { stroke: var(--ink); }
.q.at .strip .all { display: none; }
.names { display: flex; margin-top: 3px; font-size: 12px; line-height: 1.35; color: var(--muted); }
.names span { min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; padding-right: 6px; }
.q h3 { margin: 0 0 6px; font-size: 14px; } .q h3 small { font-weight: 400; color: var(--muted); font-size: 13px; }
.top ol, .reads { margin: 0; padding: 0; list-style: none; }
.read { display: grid; grid-template-columns: 74px 54px minmax(0, 1fr); gap: 0 9px; align-items: center; width: 100%; padding: 6px 8px; font: inherit; font-size: 14px;
  line-height: 1.4; text-align: start; color: var(--ink); background: none; border: 1px solid transparent; border-radius: 7px; cursor: pointer; text-decoration: none; }
.read:hover { background: var(--code); } .read.open { background: var(--code); border-color: var(--edge); }
.read:focus-visible { outline: 3px solid var(--accent); outline-offset: -2px; }
.bar { height: 10px; border-radius: 3px; background: var(--grid); overflow: hidden; } .bar b { display: block; height: 100%; min-width: 2px; background: var(--bar, var(--muted)); }
.share { text-align: end; font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; }
.from { color: var(--muted); font-size: 13px; overflow-wrap: anywhere; }
.said { grid-column: 3; overflow-wrap: anywhere; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
.panel:empty { display: none; } .q.at .top { display: none; }
.panel { border-top: 1px solid var(--grid); padding-top: 12px; margin-bottom: 16px; display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 6px 26px; align-items: start; }
.q.at .panel { margin-bottom: 0; }
.panel > header { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline; }
.panel > header p { margin: 0; flex: 1 1 16rem; overflow-wrap: anywhere; }
.panel.alone { grid-template-columns: minmax(0, 1fr); }
.quiet { font: inherit; font-size: 13.5px; color: var(--accent); background: none; border: 0; padding: 3px 0; cursor: pointer; text-decoration: underline; text-underline-offset: 2px; }
.quiet:focus-visible { outline: 2px solid var(--accent); }
.retrieval + .retrieval { margin-top: 14px; }
.retrieval h3::before { content: ""; display: inline-block; width: .75em; height: .75em; margin-right: .5em; border-radius: 2px; background: var(--bar); }
.spot { min-width: 0; scroll-margin: 12px; position: sticky; top: 12px; } .spot p { margin: 0 0 6px; font-size: 13.5px; color: var(--muted); overflow-wrap: anywhere; }
.spot blockquote { margin: 0; padding: 11px 14px; background: var(--code); border-radius: 8px; font-size: 15px; line-height: 1.6; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 60vh; overflow: auto; }
.spot .near { color: var(--muted); } .spot .edge { color: var(--muted); font-style: italic; font-size: 13px; }
.spot mark { background: var(--found); color: var(--foundink); border-radius: 3px; padding: 1px 0; }
.q[hidden] { display: none; }
.origin { margin-top: 40px; } .origin h2 { margin-bottom: 10px; }
@media (max-width: 760px) {
  .panel { grid-template-columns: minmax(0, 1fr); }
  .panel > header { order: -2; } .spot { order: -1; position: static; margin-bottom: 10px; }
  .q { padding: 13px 12px 14px; }
  .read { grid-template-columns: 52px 50px minmax(0, 1fr); padding: 7px 4px; } .said { grid-column: 1 / -1; }
  .spot blockquote { max-height: 45vh; }
}
@media print { .q { content-visibility: visible; break-inside: avoid; } .find, .quiet { display: none; } }
)css";
}

}  // namespace cairn::report
