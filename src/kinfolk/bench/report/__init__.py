"""The page of `kin bench --report`: one file, no network, plots, tables, and which mechanism to
choose.

page        the page, from its sections
sections    what stands in each: a figure, its table, a sentence
plots       figures, as data for plotly.js
plotly_js   plotly.js itself
page.css    how it looks: on a phone, in the dark, on paper
page.js     draws the plots in the colours of the page
"""
