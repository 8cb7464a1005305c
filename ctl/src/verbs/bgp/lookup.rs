//! Why a path, and why not the others.

use margay_api::bgp::Route;

use super::communities;

/// The paths of a prefix, in words.
pub(super) fn render(target: &str, paths: &[Route]) -> String {
    let Some(first) = paths.first() else {
        return format!("{target}: no path\n");
    };
    let count = match paths.len() {
        1 => "1 path".to_owned(),
        n => format!("{n} paths"),
    };
    let mut text = format!("{}: {count}\n", first.prefix);
    for path in paths {
        text += &describe(path);
    }
    text
}

fn describe(path: &Route) -> String {
    let next_hops = if path.next_hops.is_empty() {
        "originated here".to_owned()
    } else {
        format!("via {}", path.next_hops.join(" "))
    };
    let from = match path.source.as_str() {
        "local" | "" => String::new(),
        peer => format!(" from {peer}"),
    };
    let id = path
        .path_id
        .map_or_else(String::new, |id| format!(", path {id}"));
    let mut text = format!("\n{next_hops}{from}{id}: {}\n", verdict(path));
    let as_path = if path.as_path.is_empty() {
        "(none)"
    } else {
        &path.as_path
    };
    let mut facts = vec![
        format!("AS path {as_path}"),
        format!("origin {}", path.origin),
    ];
    facts.extend(path.local_pref.map(|v| format!("local preference {v}")));
    facts.extend(path.med.map(|v| format!("MED {v}")));
    text += &format!("  {}\n", facts.join(", "));
    let communities = communities(path);
    if !communities.is_empty() {
        text += &format!("  communities {communities}\n");
    }
    if let Some(originator) = &path.originator_id {
        let clusters = path.cluster_list.join(" ");
        text += &format!("  reflected, originator {originator}, clusters {clusters}\n");
    }
    text
}

fn verdict(path: &Route) -> String {
    let mut text = path.outcome.clone().unwrap_or_default();
    if let Some((this, preferred)) = &path.compared {
        text += &format!(": {this}, the better one has {preferred}");
    }
    if path.multipath {
        text += "; carries traffic as well (ECMP)";
    }
    if path.stale {
        text += "; stale, its session is lost";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loser_has_its_step_and_the_values() {
        let best = Route {
            prefix: "10.0.0.0/24".into(),
            source: "192.0.2.1".into(),
            next_hops: vec!["192.0.2.1".into()],
            as_path: "65000".into(),
            origin: "IGP".into(),
            outcome: Some("best".into()),
            ..Route::default()
        };
        let lost = Route {
            source: "192.0.2.2".into(),
            next_hops: vec!["192.0.2.2".into()],
            as_path: "65000 65001".into(),
            communities: vec!["no-export".into()],
            path_id: Some(7),
            outcome: Some("lost by AS path length".into()),
            lost_at: Some("AS path length".into()),
            compared: Some(("2".into(), "1".into())),
            ..best.clone()
        };
        assert_eq!(
            render("10.0.0.7", &[best, lost]),
            "\
10.0.0.0/24: 2 paths

via 192.0.2.1 from 192.0.2.1: best
  AS path 65000, origin IGP

via 192.0.2.2 from 192.0.2.2, path 7: lost by AS path length: 2, the better one has 1
  AS path 65000 65001, origin IGP
  communities no-export
"
        );
        assert_eq!(render("10.9.0.0/16", &[]), "10.9.0.0/16: no path\n");
    }
}
