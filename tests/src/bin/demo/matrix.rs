//! Who reaches whom.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use margay_lab::{NetNs, ping};

/// Generous: the first packet of a pair may wait for a neighbour entry on a loaded machine.
const REPLY: Duration = Duration::from_secs(2);

/// A party: its name, namespace and addresses.
#[derive(Clone, Copy)]
pub(crate) struct Party<'a> {
    pub(crate) name: &'a str,
    pub(crate) netns: &'a NetNs,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
}

/// What one party reached: for each other one `46`, `4-`, `-6` or `--`, for itself `.`.
pub(crate) struct Row {
    pub(crate) from: String,
    pub(crate) cells: Vec<String>,
    pub(crate) missed: Vec<String>,
}

/// Pings every pair in both families, all parties at once.
pub(crate) fn measure(parties: &[Party<'_>]) -> Vec<Row> {
    thread::scope(|scope| {
        let rows: Vec<_> = parties
            .iter()
            .map(|from| scope.spawn(|| row(from, parties)))
            .collect();
        rows.into_iter().filter_map(|row| row.join().ok()).collect()
    })
}

fn row(from: &Party<'_>, parties: &[Party<'_>]) -> Row {
    let mut row = Row {
        from: from.name.to_owned(),
        cells: Vec::new(),
        missed: Vec::new(),
    };
    for to in parties {
        if to.name == from.name {
            row.cells.push(".".into());
            continue;
        }
        let mut cell = String::new();
        for (family, address) in [("4", to.v4), ("6", to.v6)] {
            match ping(from.netns, address, REPLY) {
                Ok(_) => cell += family,
                Err(_) => {
                    cell += "-";
                    row.missed.push(format!("{} ({address})", to.name));
                }
            }
        }
        row.cells.push(cell);
    }
    row
}

/// The matrix as text.
pub(crate) fn render(rows: &[Row]) -> String {
    let width = rows.iter().map(|r| r.from.len()).max().unwrap_or(0).max(2);
    let line = |name: &str, cells: Vec<&str>| {
        let cells: Vec<String> = cells.iter().map(|c| format!("{c:>width$}")).collect();
        format!("{name:>width$}  {}\n", cells.join(" "))
    };
    let mut text = line("", rows.iter().map(|r| r.from.as_str()).collect());
    for row in rows {
        text += &line(&row.from, row.cells.iter().map(String::as_str).collect());
    }
    text
}
