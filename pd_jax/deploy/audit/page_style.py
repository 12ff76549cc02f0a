"""How ``audit.html`` looks."""

STYLE = """
:root { --ground: #fbfbfa; --card: #fff; --text: #1d1f22; --quiet: #63686e; --line: #e2e3e1; --own: #b4530a;
  --taught: #2463a8; --bad: #b3261e; --good: #2e7d46; --rail: #ecedea; --fill: #9bb8d8; --ink: #1d1f22 }
@media (prefers-color-scheme: dark) { :root { --ground: #16181b; --card: #1e2125; --text: #e4e6e8; --quiet: #9aa1a8;
  --line: #32363b; --own: #f0a35e; --taught: #7fb2ea; --bad: #ff8a80; --good: #7ccf94; --rail: #2b2f34; --fill: #38587c;
  --ink: #e4e6e8 } }
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
th:first-child, td:first-child { text-align: left; padding-left: 0 }
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
.confusion th:first-child { text-align: left }
.heat { background: color-mix(in srgb, var(--own) calc(var(--heat) * .6), transparent) }
.heat.same { background: color-mix(in srgb, var(--taught) calc(var(--heat) * .45), transparent) }
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
