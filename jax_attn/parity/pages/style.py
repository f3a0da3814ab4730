"""What the page of a report has beside the common style sheet: the colours of errors, its tree and its chart."""

STYLE = """
:root { --ok: #d3efd9; --e1: #fff0b8; --e2: #ffdc8a; --e3: #ffbd70; --e4: #ff9466; --e5: #f4645a;
  --none: #e4e6ec; --chip: #14171c; }
@media (prefers-color-scheme: dark) { :root { --ok: #1f4a2c; --e1: #574a12; --e2: #6b5010; --e3: #7d4a14;
  --e4: #8a3a1c; --e5: #a02822; --none: #2b303a; --chip: #f2f4f8; } }
header { background: var(--box); border-left: .5rem solid; padding: 1rem; border-radius: .3rem; }
header.pass { border-color: var(--good); } header.fail { border-color: var(--mark); }
.verdict { font-size: 1.8rem; font-weight: 700; margin: .2rem 0; }
.pass .verdict { color: var(--good); } .fail .verdict { color: var(--mark); }
.counts { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; }
.tree { font: 13px/1.5 ui-monospace, monospace; }
td.ok, td.e5 { padding-left: .5rem; } .tree details, .tree .leaf { margin-left: 1.1rem; }
.tree > details, .tree > .leaf { margin-left: 0; }
.leaf { padding-left: 1rem; } summary { cursor: pointer; } i { color: var(--soft); }
.chip, .legend span { color: var(--chip); padding: 0 .4rem; border-radius: .25rem; margin-right: .2rem;
  white-space: nowrap; } .legend span { display: inline-block; }
.ok { background: var(--ok); } .e1 { background: var(--e1); } .e2 { background: var(--e2); }
.e3 { background: var(--e3); } .e4 { background: var(--e4); } .e5 { background: var(--e5); }
.none { background: var(--none); } .first { color: var(--mark); }
.strip { color: var(--soft); white-space: nowrap; } .strip svg {
  vertical-align: middle; background: var(--none); }
.heat { fill: var(--mark); }
svg text { fill: var(--soft); font: 11px ui-monospace, monospace; }
.grid { stroke: var(--line); } .bound { stroke: var(--good); stroke-dasharray: 5 4; }
.here { stroke: var(--mark); stroke-dasharray: 2 3; } .chart { width: 100%; min-width: 36rem; height: auto; }
.s0 { stroke: var(--one); fill: var(--one); } .s1 { stroke: var(--two); fill: var(--two); }
.s2 { stroke: var(--good); fill: var(--good); }
polyline { fill: none !important; stroke-width: 1.5; }
"""
