"""How pages look: on phones and desks, in light and dark, on paper."""

STYLE = """
:root { --ground: #fbfbfa; --card: #fff; --text: #1d1f22; --quiet: #63686e; --line: #e2e3e1; --own: #b4530a;
  --taught: #2463a8; --bad: #b3261e; --good: #2e7d46; --rail: #ecedea; --fill: #9bb8d8; --ink: #1d1f22 }
@media screen and (prefers-color-scheme: dark) { :root { --ground: #16181b; --card: #1e2125; --text: #e4e6e8;
  --quiet: #9aa1a8; --line: #32363b; --own: #f0a35e; --taught: #7fb2ea; --bad: #ff8a80; --good: #7ccf94;
  --rail: #2b2f34; --fill: #38587c; --ink: #e4e6e8 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 0 0 .75rem }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem }
p { margin: .25rem 0 }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.1rem;
  margin-top: 1rem }
small, .note, figcaption { color: var(--quiet); font-size: .85rem }
td small { white-space: nowrap }
code { font-size: .85em; overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin-top: .8rem }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .6rem .8rem }
.tiles b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums }
.tiles span { color: var(--quiet); font-size: .85rem }
.findings { border-left: .35rem solid var(--bad) }
.findings.none { border-left-color: var(--good) }
.findings ol { margin: 0; padding-left: 1.4rem }
.findings li { margin: .7rem 0; padding-left: .3rem }
.findings li.first p { font-size: 1.15rem; font-weight: 600 }
.findings small { display: block }
.tag { display: inline-block; border: 1px solid var(--bad); color: var(--bad); border-radius: 1rem; padding: 0 .6rem;
  font-size: .8rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .92rem }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums }
th { font-weight: 600; color: var(--quiet); font-size: .85rem; vertical-align: bottom }
th:first-child, td:first-child, .left { text-align: left } th:first-child, td:first-child { padding-left: 0 }
.about td { text-align: left; overflow-wrap: anywhere }
.about td:first-child { color: var(--quiet); white-space: nowrap; vertical-align: top }
.kinds { table-layout: fixed; min-width: 38rem }
.kinds :is(th, td):nth-child(1) { width: 30% } .kinds :is(th, td):nth-child(2) { width: 10% }
.kinds :is(th, td):nth-child(3) { width: 19% } .kinds :is(th, td):nth-child(4) { width: 19% }
.kinds :is(th, td):nth-child(n + 5) { width: 11% }
.bar { display: block; width: 100%; height: .7rem; margin: .2rem 0 }
.rail { fill: var(--rail) } .fill { fill: var(--fill) } .mark { fill: var(--bad) } .interval { fill: var(--ink) }
.confusion { width: auto; min-width: 50% }
.confusion th, .confusion td { text-align: right; padding: .3rem .5rem; font-size: .85rem }
.confusion th:first-child { text-align: left } .confusion th { white-space: nowrap }
.heat { background: color-mix(in srgb, var(--own) calc(var(--heat) * .6), transparent) }
.heat.same, .heat.along { background: color-mix(in srgb, var(--taught) calc(var(--heat) * .45), transparent) }
.strip { display: block; width: 100%; max-width: 40rem; margin: .8rem 0 0; font-size: 10px }
.strip text { fill: var(--quiet) } .strip line { stroke: var(--line) }
.strip circle { fill-opacity: .55 } .strip .student { fill: var(--own) } .strip .teacher { fill: var(--taught) }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
figure { margin: 0; min-width: 0 }
.state, .cluster { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem }
img { image-rendering: pixelated; display: block; background: #000; border-radius: .2rem }
.newest { width: 100%; max-width: 15rem; margin: 0 auto }
.olders { display: flex; gap: .3rem; max-width: 15rem; margin: .3rem auto 0 }
.older { width: calc((100% - .6rem) / 3) }
.small { width: 84px; display: inline-block; margin: .3rem .3rem 0 0 }
.exemplars { display: grid; grid-template-columns: repeat(4, 1fr); gap: .25rem; margin-bottom: .3rem }
.exemplars .small { width: 100%; margin: 0 }
.actions { margin: .6rem 0 .3rem }
.action { display: grid; grid-template-columns: 6.2rem 1fr; gap: .4rem; align-items: center; font-size: .75rem }
.pair { display: block; border-left: 1px solid var(--line); padding: .12rem 0 }
.pair i { display: block; height: .4rem; min-width: 1px; opacity: .45 }
.pair i.chosen { opacity: 1 }
i.taught { background: var(--taught) } i.own { background: var(--own) }
span.taught::before, span.own::before { content: ""; display: inline-block; width: .7rem; height: .7rem;
  border-radius: .15rem; margin-right: .3rem }
span.taught::before { background: var(--taught) } span.own::before { background: var(--own) }
figcaption span { margin-right: .6rem }
.legend { margin-bottom: .6rem } .legend span { margin-right: .8rem }
.numbers { font-variant-numeric: tabular-nums; margin: 0; overflow-wrap: anywhere }
@media (max-width: 42rem) { .kinds { min-width: 0 }
  .kinds :is(th, td):is(:nth-child(2), :nth-child(3)) { display: none }
  .kinds :is(th, td):nth-child(1) { width: 40% } .kinds :is(th, td):nth-child(4) { width: 24% }
  .kinds :is(th, td):nth-child(n + 5) { width: 18% } .kinds small { display: block } th, td { padding: .3rem .35rem } }
@media (max-width: 30rem) { main { padding: 1rem .6rem 3rem } section { padding: .8rem .7rem }
  .about td, .about tr { display: block } .about td:first-child { border: 0; padding-bottom: 0 }
  .about td:last-child { padding-left: 0 } .grid { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)) } }
"""

RUN_STYLE = """
:root { --line0: #2463a8; --line1: #b4530a; --line2: #2e7d46; --line3: #8a3ea8; --line4: #96750a; --line5: #0b7a8c }
@media screen and (prefers-color-scheme: dark) { :root { --line0: #7fb2ea; --line1: #f0a35e; --line2: #7ccf94;
  --line3: #d59cec; --line4: #dcc25a; --line5: #6fd0df } }
.banner { border-left: .35rem solid var(--bad) }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem 1.5rem }
.chart { max-width: 31rem }
.chart h3 { margin: 0 0 .3rem }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; font: 11px system-ui, sans-serif }
.chart text { fill: var(--quiet); font-variant-numeric: tabular-nums }
.own { --c: var(--own) } .taught { --c: var(--taught) } .quiet { --c: var(--quiet) } .line0 { --c: var(--line0) }
.line1 { --c: var(--line1) } .line2 { --c: var(--line2) } .line3 { --c: var(--line3) } .line4 { --c: var(--line4) }
.line5 { --c: var(--line5) }
.chart path { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
.chart circle { fill: var(--c) }
.chart .gridline { stroke: var(--line); stroke-width: 1 } .chart .axis { stroke: var(--quiet); stroke-width: 1 }
.chart .level { stroke-dasharray: 5 4; stroke-width: 1.4 } .chart .dashed { stroke-dasharray: 2 3 }
.chart .band { fill: var(--c); stroke: none; opacity: .2 }
.key { display: inline-block; margin-right: .9rem }
.key::before { content: ""; display: inline-block; width: .7rem; height: .7rem; border-radius: .15rem;
  margin-right: .3rem; background: var(--c) }
.rails { display: block; width: 100%; min-width: 8rem; height: 1.6rem; border-radius: .2rem }
.rails .own, .rails .taught { fill: var(--c) } .rails .band { opacity: .35 }
video, .film { display: block; width: 100%; max-width: 44rem; height: auto; background: #000; border-radius: .3rem;
  image-rendering: auto }
.moments { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)) }
.moment { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem }
.moment .newest { max-width: 13rem } .moment .olders { max-width: 13rem }
.moment figcaption { margin-top: .4rem }
.choices { table-layout: fixed; margin-top: .5rem; font-size: .75rem }
.choices td { padding: .12rem .2rem; font-size: .75rem; border: 0; white-space: nowrap }
.choices td:first-child { white-space: normal; overflow-wrap: anywhere; font-size: .7rem }
.choices td:nth-child(2) { width: 33% } .choices td:nth-child(3) { width: 24% }
.choices tr.chosen-taught td:nth-child(2), .choices tr.chosen-own td:nth-child(3) { font-weight: 700 }
.choices .cell { display: block; position: relative; padding: 0 .25rem }
.choices .cell i { position: absolute; inset: .1rem auto .1rem 0; opacity: .28; border-radius: .1rem }
.choices .cell b { position: relative; font-weight: inherit }
.values { display: grid; grid-template-columns: auto 1fr; gap: .1rem .6rem; font-size: .8rem; margin: 0;
  font-variant-numeric: tabular-nums }
.values dt { color: var(--quiet) } .values dd { margin: 0; text-align: right }
.shares { display: flex; height: 1.1rem; border-radius: .3rem; overflow: hidden; background: var(--rail) }
.shares i { display: block; min-width: 1px; border-right: 1px solid var(--card); background: var(--c) }
.keys { margin: .5rem 0 0; font-size: .9rem }
ul.note { padding-left: 1.2rem; margin: .5rem 0 0 }
.commands { white-space: pre-wrap; overflow-wrap: anywhere }
pre { background: var(--rail); padding: .7rem .8rem; border-radius: .4rem; overflow-x: auto; font-size: .82rem;
  line-height: 1.45; margin: .5rem 0 }
summary { cursor: pointer; padding: .2rem 0; font-weight: 600 } summary small { font-weight: 400 }
details + details { border-top: 1px solid var(--line); margin-top: .4rem; padding-top: .4rem }
section > details > summary { color: var(--quiet) }
td.interval { min-width: 9rem; width: 26% }
.scores td:first-child { white-space: nowrap }
a { color: var(--taught) }
@media (max-width: 52rem) { .scores, .scores tbody, .scores tr { display: block }
  .scores tr:first-child { display: none }
  .scores tr { border-bottom: 1px solid var(--line); padding: .4rem 0 }
  .scores td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .12rem 0 }
  .scores td:first-child { font-weight: 600 } .scores td.interval { display: block; width: auto }
  .scores td[data-name]::before { content: attr(data-name); color: var(--quiet) }
  .scores td:empty { display: none } }
@media print { body { font-size: 11px } main { max-width: none; padding: 0 }
  section { break-inside: avoid-page; border: 0; padding: .5rem 0; margin-top: .5rem } video { display: none }
  .long { break-inside: auto } .moment, .chart { break-inside: avoid }
  pre { white-space: pre-wrap; overflow-wrap: anywhere } .scroll { overflow: visible }
  details::details-content { content-visibility: visible; block-size: auto }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""

RUNS_STYLE = """
.filters { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .5rem .8rem;
  align-items: end; margin-bottom: .6rem } .filters[hidden] { display: none }
.filters label { display: block; font-size: .8rem; color: var(--quiet) }
.filters :is(select, input, button) { display: block; width: 100%; font: inherit; font-size: .92rem; color: var(--text);
  background: var(--ground); border: 1px solid var(--line); border-radius: .4rem; padding: .35rem .5rem;
  min-height: 2.2rem }
.filters button { cursor: pointer }
.runs th, .runs td { padding: .3rem .45rem; font-size: .87rem; text-align: right }
.runs :is(th, td):is(:nth-child(-n + 5)) { text-align: left }
.runs td:nth-child(1) { overflow-wrap: anywhere; min-width: 7rem } .runs td:is(:nth-child(2), :nth-child(4)),
.runs td:nth-child(7) { white-space: nowrap }
.runs th button { all: unset; cursor: pointer; text-align: inherit }
.runs th button:focus-visible { outline: 2px solid }
.runs th[aria-sort="ascending"] button::after { content: " \\2191" }
.runs th[aria-sort="descending"] button::after { content: " \\2193" }
.rails-table td:first-child { width: 34% } .rails-table td:nth-child(2) { width: 40% }
.rails-table .group th { padding-top: .8rem; color: var(--text); text-align: left }
.rails-table .rails, .measures .rails { height: 1.1rem } .rails .mark { fill: var(--quiet) }
.measures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .3rem 1rem;
  border-top: 1px solid var(--line); padding: .5rem 0 } .measures span, .measures small { display: block }
.measures span { color: var(--quiet); font-size: .85rem } .measures div { font-variant-numeric: tabular-nums }
.measures div small { display: inline-block; white-space: nowrap }
.grid-table td { white-space: nowrap }
@media (max-width: 64rem) {
  .runs :is(th, td):is(:nth-child(5), :nth-child(10), :nth-child(11)) { display: none } }
@media (max-width: 42rem) { .runs, .runs tbody { display: block } .runs thead { display: none }
  .runs tr { border-bottom: 1px solid var(--line); padding: .6rem 0; display: grid; grid-template-columns: 1fr 1fr;
    gap: .1rem 1rem } .runs tr[hidden] { display: none }
  .runs td, .runs td:is(:nth-child(n)) { display: flex; justify-content: space-between; gap: .5rem; border: 0;
    padding: .05rem 0; text-align: right; min-width: 0; white-space: normal; font-size: .85rem }
  .runs td::before { content: attr(data-name); color: var(--quiet); text-align: left }
  .runs td:nth-child(1) { font-weight: 600; font-size: 1rem; overflow-wrap: anywhere; justify-content: start }
  .runs td:nth-child(1)::before { content: none }
  .runs td:is(:nth-child(1), :nth-child(5), :nth-child(12)) { grid-column: 1 / 3 }
  .measures { grid-template-columns: 1fr 1fr } .measures p { grid-column: 1 / 3 }
  .rails-table, .rails-table tbody, .rails-table tr { display: block }
  .rails-table tr { display: grid; grid-template-columns: 1fr auto; padding: .3rem 0;
    border-bottom: 1px solid var(--line) }
  .rails-table td { border: 0; padding: .1rem 0 } .rails-table td:first-child { width: auto }
  .rails-table td:nth-child(2) { grid-row: 2; grid-column: 1 / 3; width: auto } .rails-table .group { display: block } }
@media print { .filters { display: none } .runs th button::after { content: "" } }
"""
