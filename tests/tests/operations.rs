//! What an operator has to watch and to find faults with, against a live agent.
//!
//! 1. Every metric, every query of every alert and every panel of the dashboard resolves in a real Prometheus.
//! 2. The page shows a healthy host, a session that is down, a full pool and packets that policy drops, in Chromium.
//!    It is used by the keyboard alone, and legible in narrow windows and in both palettes.
//! 3. `doctor` names what was broken, and is content before and after.
//! 4. `trace` follows a packet through all kernels on its way, and says where it ends; `flows` follows what rules decide, and
//!    what staged ones would.
//! 5. `connectivity test` finds who answers and an MTU that is too large; `top` shows and ends by a key.
//! 6. Metrics by TLS are for those with a certificate.
//!
//! ```text
//!   h1 margayd - tor (BIRD, AS 65000)      store: etcd
//!   h2 margayd  /
//! ```

#[path = "operations/broken.rs"]
mod broken;
#[path = "operations/browser.rs"]
mod browser;
#[path = "operations/devtools.rs"]
mod devtools;
#[path = "operations/keyboard.rs"]
mod keyboard;
#[path = "operations/legible.rs"]
mod legible;
#[path = "operations/log.rs"]
mod log;
#[path = "operations/monitoring.rs"]
mod monitoring;
#[path = "operations/rig.rs"]
mod rig;
#[path = "operations/terminal.rs"]
mod terminal;
