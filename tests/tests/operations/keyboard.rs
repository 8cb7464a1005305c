//! The page by the keyboard alone, and for every eye.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::devtools::Devtools;
use crate::legible::each_view_is_legible;
use crate::rig::Rig;

/// The place where keys go, and whether somebody sees it.
const FOCUS: &str = "document.activeElement.id || document.activeElement.tagName";
const VISIBLE: &str = "document.activeElement.matches(':focus-visible') && \
    getComputedStyle(document.activeElement).outlineStyle === 'solid'";
const VIEW: &str = "document.body.dataset.ready";
const ROWS: &str = "document.querySelectorAll('main tbody tr').length";

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[test]
fn the_page_is_used_by_the_keyboard_alone_and_is_legible() -> Result<()> {
    let mut rig = Rig::start(2)?;
    let _containers = (rig.cluster.attach(0, "web")?, rig.cluster.attach(0, "db")?);
    let mut page = Devtools::open(rig.host(), "http://127.0.0.1:9089/")?;
    page.await_value(VIEW, &json!("overview"))?;

    // The first place is the bar of views, as one stop; arrows move within it and open.
    page.press("Tab")?;
    page.await_value(FOCUS, &json!("tab-overview"))?;
    ensure!(page.evaluate(VISIBLE)? == true, "nobody sees where it is");
    page.press("ArrowRight")?;
    page.await_value(FOCUS, &json!("tab-topology"))?;
    page.await_value(VIEW, &json!("topology"))?;
    let selected = "document.querySelector('[role=tab][aria-selected=true]').id";
    page.await_value(selected, &json!("tab-topology"))?;
    page.press("ArrowLeft")?;
    page.press("ArrowLeft")?;
    page.await_value(VIEW, &json!("flows"))?;
    page.press("6")?;
    page.await_value(VIEW, &json!("endpoints"))?;
    page.await_value(ROWS, &json!(2))?;

    // Rows are places too, and stay so when the page is drawn anew.
    page.press("Tab")?;
    page.await_value(FOCUS, &json!("filter"))?;
    page.press("Tab")?;
    page.await_value(FOCUS, &json!("TR"))?;
    ensure!(page.evaluate(VISIBLE)? == true, "nobody sees the row");
    page.evaluate("window.before = document.activeElement; state.at = 0")?;
    page.await_value("state.at > 0 && !window.before.isConnected", &json!(true))?;
    page.await_value(FOCUS, &json!("TR"))?;

    // Choosing rows.
    page.press("/")?;
    page.await_value(FOCUS, &json!("filter"))?;
    for key in ["w", "e", "b"] {
        page.press(key)?;
    }
    page.await_value(ROWS, &json!(1))?;
    page.press("Escape")?;
    page.await_value(ROWS, &json!(2))?;
    page.evaluate("document.activeElement.blur()")?;

    // Help takes the keys and gives them back.
    page.press("?")?;
    page.await_value("document.getElementById('help').open", &json!(true))?;
    page.await_value(FOCUS, &json!("BUTTON"))?;
    page.press("Enter")?;
    page.await_value("document.getElementById('help').open", &json!(false))?;

    // A pause is one: the page reads nothing any more.
    page.press("p")?;
    page.await_value(
        "document.getElementById('age').textContent.startsWith('paused')",
        &json!(true),
    )?;
    page.press("p")?;
    let at = number(&page.evaluate("state.at")?);
    page.await_value(&format!("state.at > {at}"), &json!(true))?;

    // Also what is wrong is to be read.
    rig.tor.process().stop()?;
    page.await_value("document.body.dataset.health", &json!("bad"))?;
    each_view_is_legible(&mut page)
}
