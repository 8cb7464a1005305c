//! A look as lines of text: pure, so that tests see what a user sees.

use super::View;
use super::sample::Sample;
use super::screen::Key;
use crate::table::Table;
use crate::terminal::{Paint, Terminal};
use crate::verbs::node::period;

/// Lines above and below the rows: head, views, heading, keys.
const FIXED: usize = 8;

/// Where the user is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) view: View,
    /// Rows that are scrolled past.
    pub(super) skipped: usize,
    pub(super) paused: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            view: View::Sessions,
            skipped: 0,
            paused: false,
        }
    }
}

impl Place {
    /// What a key does.
    pub(super) fn press(&mut self, key: Key, height: usize) {
        let page = height.saturating_sub(FIXED).max(1);
        match key {
            Key::View(number) => {
                if let Some(view) = View::ALL.get(number.wrapping_sub(1)) {
                    (self.view, self.skipped) = (*view, 0);
                }
            }
            Key::Next => (self.view, self.skipped) = (self.view.after(), 0),
            Key::Up => self.skipped = self.skipped.saturating_sub(1),
            Key::Down => self.skipped += 1,
            Key::PageUp => self.skipped = self.skipped.saturating_sub(page),
            Key::PageDown => self.skipped += page,
            Key::Pause => self.paused = !self.paused,
            Key::Quit | Key::Resize => {}
        }
    }
}

/// The lines of a screen of this size; the place is moved back when there are fewer rows than that.
pub(super) fn frame(
    sample: &Sample,
    place: &mut Place,
    width: usize,
    height: usize,
    colour: bool,
) -> Vec<String> {
    let terminal = Terminal {
        width: Some(width),
        colour,
        ..Terminal::default()
    };
    let mut lines = head(sample, terminal);
    lines.push(views(sample, place.view, terminal));
    let table = table(sample, place.view);
    let text = table.render_for(terminal);
    let mut rows = text.lines().map(str::to_owned);
    lines.extend(rows.next());
    let rows: Vec<_> = rows.collect();
    let space = height.saturating_sub(FIXED).max(1);
    place.skipped = place.skipped.min(rows.len().saturating_sub(space));
    let shown = rows.iter().skip(place.skipped).take(space);
    lines.extend(shown.cloned());
    if height < usize::MAX {
        lines.resize(height.saturating_sub(1), String::new());
        let paused = if place.paused { "PAUSED  " } else { "" };
        let end = (place.skipped + space).min(rows.len());
        lines.push(format!(
            "{paused}rows {}-{end} of {}  1-5 views  Tab next  arrows scroll  p pause  q end",
            (place.skipped + 1).min(rows.len()),
            rows.len()
        ));
    }
    let cut = |line: String| match colour {
        // What is painted was cut to size before.
        true => line,
        false => line.chars().take(width).collect(),
    };
    lines.into_iter().map(cut).collect()
}

fn head(sample: &Sample, terminal: Terminal) -> Vec<String> {
    let status = &sample.status;
    let state = match (sample.trouble.is_empty(), status.ready) {
        (false, _) => terminal.paint(Paint::Red, "does not answer"),
        (true, true) => terminal.paint(Paint::Green, "ready"),
        (true, false) => terminal.paint(Paint::Red, "NOT READY"),
    };
    let store = &status.datastore;
    let connected = match store.connected {
        true => terminal.paint(Paint::Green, "connected"),
        false => terminal.paint(Paint::Red, "AWAY"),
    };
    let plane = &status.dataplane;
    let up = sample.peers.iter().filter(|p| p.state == "Established");
    let why = match sample.trouble.is_empty() {
        true => status.not_ready_reasons.join("; "),
        false => sample.trouble.clone(),
    };
    let failing = match plane.failing.len() {
        0 => String::new(),
        count => format!(
            ", {}",
            terminal.paint(Paint::Red, &format!("{count} FAILING"))
        ),
    };
    vec![
        format!(
            "{}  {state}  up {}  margayd {}",
            terminal.paint(Paint::Bold, &status.node),
            period(status.uptime_secs),
            status.version
        ),
        format!(
            "datastore {} {connected} for {}   policy in {}, {} endpoints, {} routes{failing}",
            store.driver,
            period(store.since_secs),
            plane.backend,
            plane.endpoints,
            plane.routes
        ),
        format!(
            "BGP AS {}, {} of {} sessions up",
            status.bgp.local_as,
            up.count(),
            sample.peers.len()
        ),
        why,
    ]
}

fn views(sample: &Sample, chosen: View, terminal: Terminal) -> String {
    let names = View::ALL.iter().enumerate().map(|(at, view)| {
        let name = format!("{}:{}", at + 1, view.name());
        match *view == chosen {
            true => terminal.paint(Paint::Bold, &format!("[{name}]")),
            false => format!(" {name} "),
        }
    });
    let down = sample.peers.iter().filter(|p| p.state != "Established");
    let note = match down.count() {
        0 => String::new(),
        count => terminal.paint(Paint::Red, &format!("  {count} sessions down")),
    };
    names.collect::<Vec<_>>().join(" ") + &note
}

fn table(sample: &Sample, view: View) -> Table {
    match view {
        View::Sessions => sessions(sample),
        View::Routes => routes(sample),
        View::Endpoints => endpoints(sample),
        View::Rules => rules(sample),
        View::Events => events(sample),
    }
}

fn sessions(sample: &Sample) -> Table {
    let mut table = Table::new([
        "NAME",
        "ADDRESS",
        "AS",
        "STATE",
        "FOR",
        "BFD",
        "RECEIVED",
        "ADVERTISED",
        "LAST ERROR",
    ]);
    // What is down is what one looks for.
    let mut peers: Vec<_> = sample.peers.iter().collect();
    peers.sort_by_key(|peer| (peer.state == "Established", peer.name.clone()));
    for peer in peers {
        let sum = |of: fn(&margay_api::bgp::FamilyCount) -> u64| -> u64 {
            peer.families.iter().map(of).sum()
        };
        table.row([
            peer.name.clone(),
            peer.address.clone(),
            peer.remote_as.to_string(),
            peer.state.clone(),
            period(peer.since_secs),
            match peer.bfd_up {
                None => String::new(),
                Some(true) => "up".to_owned(),
                Some(false) => "DOWN".to_owned(),
            },
            sum(|family| family.received).to_string(),
            sum(|family| family.advertised).to_string(),
            peer.last_error.clone(),
        ]);
    }
    table
}

fn routes(sample: &Sample) -> Table {
    let mut table = Table::new(["PREFIX", "FROM", "NEXT HOPS", "AS PATH", "PREF", "MED"]);
    for route in &sample.routes {
        let number = |value: Option<u32>| value.map_or_else(String::new, |v| v.to_string());
        table.row([
            route.prefix.clone(),
            route.source.clone(),
            route.next_hops.join(" "),
            route.as_path.clone(),
            number(route.local_pref),
            number(route.med),
        ]);
    }
    table
}

fn endpoints(sample: &Sample) -> Table {
    let mut table = Table::new(["NAMESPACE", "NAME", "ADDRESSES", "INTERFACE", "PROFILES"]);
    for endpoint in &sample.endpoints {
        let spec = &endpoint.spec;
        let name = match spec.pod.is_empty() {
            true => &endpoint.metadata.name,
            false => &spec.pod,
        };
        let nets = spec.ip_networks.iter().map(|net| net.addr().to_string());
        table.row([
            endpoint.metadata.namespace.clone().unwrap_or_default(),
            name.clone(),
            nets.collect::<Vec<_>>().join(" "),
            spec.interface_name.clone(),
            spec.profiles.join(" "),
        ]);
    }
    table
}

fn rules(sample: &Sample) -> Table {
    let mut table = Table::new(["POLICY", "WAY", "RULE", "PACKETS/S", "PACKETS", "BYTES"]);
    for rule in &sample.rules {
        let counter = &rule.counter;
        table.row([
            counter.resource.clone(),
            if counter.ingress { "ingress" } else { "egress" }.to_owned(),
            counter.rule.to_string(),
            rule.rate
                .map_or_else(String::new, |rate| format!("{rate:.1}")),
            counter.packets.to_string(),
            counter.bytes.to_string(),
        ]);
    }
    table
}

fn events(sample: &Sample) -> Table {
    let mut table = Table::new(["WHEN", "PEER", "FROM", "TO", "TIMES", "REASON"]);
    for event in sample.events.iter().rev() {
        let at = i64::try_from(event.unix_secs).unwrap_or(0);
        let at = jiff::Timestamp::from_second(at).unwrap_or_default();
        table.row([
            at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            event.peer.clone(),
            event.from.clone(),
            event.to.clone(),
            event.count.to_string(),
            event.reason.clone(),
        ]);
    }
    table
}
