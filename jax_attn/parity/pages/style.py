"""The style sheet of the page: the colours, in light and in dark, and little else."""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1f24; --soft: #667; --line: #d8dbe2;
  --box: #f5f6f9; --ok: #d3efd9; --e1: #fff0b8; --e2: #ffdc8a; --e3: #ffbd70; --e4: #ff9466; --e5: #f4645a;
  --none: #e4e6ec;
  --chip: #14171c; --mark: #b3261e; --one: #1f6fd0; --two: #b3261e; --good: #1c7a3c; }
@media (prefers-color-scheme: dark) { :root { --back: #14161b; --text: #e6e8ee; --soft: #9aa3b2;
  --line: #333945; --box: #1d2027; --ok: #1f4a2c; --e1: #574a12; --e2: #6b5010; --e3: #7d4a14; --e4: #8a3a1c;
  --e5: #a02822;
  --none: #2b303a; --chip: #f2f4f8; --mark: #ff8a80; --one: #6db1ff; --two: #ff8a80; --good: #6fd08c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
header { background: var(--box); border-left: .5rem solid; padding: 1rem; border-radius: .3rem; }
header.pass { border-color: var(--good); } header.fail { border-color: var(--mark); }
.verdict { font-size: 1.8rem; font-weight: 700; margin: .2rem 0; }
.pass .verdict { color: var(--good); } .fail .verdict { color: var(--mark); }
.counts { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; }
pre, .tree, table { font: 13px/1.5 ui-monospace, monospace; }
pre, .wide { overflow-x: auto; }
pre { white-space: pre-wrap; background: var(--box); padding: .8rem; border-radius: .3rem; margin: 0; }
table { border-collapse: collapse; } p { color: var(--soft); }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.ok, td.e5 { padding-left: .5rem; } .tree details, .tree .leaf { margin-left: 1.1rem; }
.tree > details, .tree > .leaf { margin-left: 0; }
.leaf { padding-left: 1rem; } summary { cursor: pointer; } i { color: var(--soft); }
.chip, .legend span { color: var(--chip); padding: 0 .4rem; border-radius: .25rem; margin-right: .2rem;
  white-space: nowrap; }
.ok { background: var(--ok); } .e1 { background: var(--e1); } .e2 { background: var(--e2); }
.e3 { background: var(--e3); } .e4 { background: var(--e4); } .e5 { background: var(--e5); }
.none { background: var(--none); } .first { color: var(--mark); }
.strip { color: var(--soft); white-space: nowrap; } .strip svg {
  vertical-align: middle; background: var(--none); }
.heat { fill: var(--mark); }
svg text { fill: var(--soft); font: 11px ui-monospace, monospace; }
.grid { stroke: var(--line); } .bound { stroke: var(--good); stroke-dasharray: 5 4; }
.here { stroke: var(--mark); stroke-dasharray: 2 3; } .chart { width: 100%; height: auto; }
.s0 { stroke: var(--one); fill: var(--one); } .s1 { stroke: var(--two); fill: var(--two); }
.s2 { stroke: var(--good); fill: var(--good); }
polyline { fill: none !important; stroke-width: 1.5; }
"""
