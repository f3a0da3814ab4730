"""The style sheet that pages share: the colours, in light and in dark, text, tables, and where the focus is."""

LIGHT = """--back: #fff; --text: #1c1f24; --soft: #596072; --line: #d8dbe2; --box: #f5f6f9; --mark: #b3261e;
  --one: #1f6fd0; --two: #b3261e; --good: #1c7a3c;"""
DARK = """--back: #14161b; --text: #e6e8ee; --soft: #9aa3b2; --line: #333945; --box: #1d2027; --mark: #ff8a80;
  --one: #6db1ff; --two: #ff8a80; --good: #6fd08c;"""

STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
"""
STYLE += """* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { color: var(--soft); } a { color: var(--one); }
:focus-visible { outline: 3px solid var(--one); outline-offset: 1px; }
pre, table { font: 13px/1.5 ui-monospace, monospace; }
pre, .wide { overflow-x: auto; }
pre { white-space: pre-wrap; background: var(--box); padding: .8rem; border-radius: .3rem; margin: 0; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
"""
