//! The page for every eye and window: text stands out from what it is on, and nothing is cut off.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::browser::pictures;
use crate::devtools::Devtools;

const VIEWS: [&str; 8] = [
    "overview",
    "topology",
    "sessions",
    "routes",
    "addresses",
    "endpoints",
    "policy",
    "flows",
];

/// Texts whose colour is too near to that behind them: below 4.5 to 1 (WCAG 2.1, 1.4.3).
const FAINT: &str = r#"(() => {
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *:not(svg *)")) {
    const text = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || node.getClientRects().length === 0) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(text + ": " + ratio.toFixed(2));
  }
  return found;
})()"#;

/// How much of the page lies beyond the window.
const BEYOND: &str = "document.documentElement.scrollWidth - window.innerWidth";

/// Every view, in narrow and wide windows, in both palettes.
pub(crate) fn each_view_is_legible(page: &mut Devtools) -> Result<()> {
    for (width, scheme) in [(360, "light"), (1280, "dark"), (1280, "light")] {
        page.look(width, scheme)?;
        for view in VIEWS {
            page.evaluate(&format!(
                "delete document.body.dataset.ready; open({view:?})"
            ))?;
            page.await_value("document.body.dataset.ready", &json!(view))?;
            let faint = page.evaluate(FAINT)?;
            ensure!(faint == json!([]), "{view}, {scheme}: {faint}");
            let beyond = page.evaluate(BEYOND)?.as_f64();
            ensure!(
                beyond.is_some_and(|beyond| beyond <= 0.0),
                "{view}: {beyond:?} pixels beyond a window of {width}"
            );
            if view == "topology" && width < 500 {
                let middle = page.evaluate("document.querySelector('.panel').scrollLeft")?;
                ensure!(middle.as_f64() > Some(0.0), "this host is out of sight");
            }
            if ["overview", "topology"].contains(&view) {
                fs::write(
                    pictures()?.join(format!("{view}-{width}-{scheme}.png")),
                    page.picture()?,
                )?;
            }
        }
    }
    Ok(())
}
