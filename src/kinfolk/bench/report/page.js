"use strict";
// Draws the plots in the colours of the page, and again when those change: dark, light, on paper.

const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(own) {
  const line = colour("--line");
  return { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...own };
}

// All names are to be seen: beside the plot each has a line, below it two of them share one.
function laidOut(own, names) {
  const legend = narrow.matches
    ? { orientation: "h", yref: "container", yanchor: "bottom", y: 0, font: { size: 11 } }
    : { font: { size: 12 } };
  const height = narrow.matches ? 420 + 11 * names : Math.max(480, 80 + 20 * names);
  return {
    ...own,
    xaxis: axis(own.xaxis),
    yaxis: axis(own.yaxis),
    legend,
    showlegend: own.showlegend !== false,
    height: own.height || height,
    margin: { l: 56, r: 12, t: 16, b: 48 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 13 },
    hoverlabel: { bgcolor: colour("--paper"), font: { color: colour("--ink") } },
    hovermode: "closest",
    transition: { duration: still.matches ? 0 : 200 },
  };
}

function draw() {
  for (const [anchor, { traces, layout }] of Object.entries(figures)) {
    const place = document.getElementById("plot-" + anchor);
    const options = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.react(place, traces, laidOut(layout, traces.length), options);
  }
}

draw();
for (const changes of [dark, narrow]) changes.addEventListener("change", draw);

// On paper there is nothing to unfold.
const folded = document.querySelectorAll("details");
window.addEventListener("beforeprint", () => {
  folded.forEach((each) => { each.dataset.open = each.open; each.open = true; });
  draw();
});
window.addEventListener("afterprint", () => {
  folded.forEach((each) => { each.open = each.dataset.open === "true"; });
  draw();
});
document.documentElement.dataset.drawn = String(Object.keys(figures).length);
