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
  return { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true, ...own };
}

function laidOut(own) {
  const legend = narrow.matches
    ? { orientation: "h", yanchor: "top", y: -0.25, font: { size: 11 } }
    : { font: { size: 12 } };
  return {
    ...own,
    xaxis: axis(own.xaxis),
    yaxis: axis(own.yaxis),
    legend,
    showlegend: own.showlegend !== false,
    height: own.height || (narrow.matches ? 520 : 480),
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
    Plotly.react(place, traces, laidOut(layout), { responsive: true, displaylogo: false, displayModeBar: false });
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
