use margay_api::bgp::{FamilyCount, Peer};
use margay_api::policy::RuleCounter;
use margay_api::status::NodeStatus;

use super::sample::Rule;
use super::*;

fn sample(peers: usize) -> Sample {
    let peer = |number: usize| Peer {
        name: format!("tor{number}"),
        address: format!("192.0.2.{number}"),
        state: if number == 2 {
            "Connect"
        } else {
            "Established"
        }
        .into(),
        last_error: if number == 2 { "refused" } else { "" }.into(),
        families: vec![FamilyCount {
            received: 3,
            advertised: 4,
            ..FamilyCount::default()
        }],
        ..Peer::default()
    };
    Sample {
        at: Instant::now(),
        status: NodeStatus {
            node: "h1".into(),
            ready: true,
            ..NodeStatus::default()
        },
        peers: (1..=peers).map(peer).collect(),
        routes: Vec::new(),
        endpoints: Vec::new(),
        rules: vec![Rule {
            counter: RuleCounter {
                resource: "NetworkPolicy/default/db".into(),
                packets: 7,
                ..RuleCounter::default()
            },
            rate: Some(1.5),
        }],
        events: Vec::new(),
        trouble: String::new(),
    }
}

#[test]
fn what_is_down_comes_first_and_the_frame_fits_the_screen() {
    let sample = sample(40);
    let mut place = Place::default();
    let lines = frame(&sample, &mut place, 90, 20, false);
    assert_eq!(lines.len(), 20);
    assert!(lines.iter().all(|line| line.chars().count() <= 90));
    assert!(lines[0].starts_with("h1  ready"), "{lines:#?}");
    assert!(lines[4].contains("1 sessions down"), "{lines:#?}");
    assert!(lines[6].starts_with("tor2"), "{lines:#?}");
    assert!(lines[19].starts_with("rows 1-12 of 40"), "{lines:#?}");
}

#[test]
fn rows_are_scrolled_and_not_beyond_their_end() {
    let sample = sample(40);
    let mut place = Place::default();
    place.press(Key::PageDown, 20);
    assert_eq!(place.skipped, 12);
    for _ in 0..9 {
        place.press(Key::PageDown, 20);
    }
    let lines = frame(&sample, &mut place, 100, 20, false);
    assert_eq!(place.skipped, 28);
    assert!(lines[19].starts_with("rows 29-40 of 40"), "{lines:#?}");
    place.press(Key::View(4), 20);
    assert_eq!((place.view, place.skipped), (View::Rules, 0));
    let lines = frame(&sample, &mut place, 100, 20, false);
    assert!(lines[6].contains("NetworkPolicy/default/db"), "{lines:#?}");
    assert!(lines[6].contains("1.5"), "{lines:#?}");
    place.press(Key::Next, 20);
    assert_eq!(place.view, View::Events);
    place.press(Key::Next, 20);
    assert_eq!(place.view, View::Sessions);
}

#[test]
fn an_agent_that_is_gone_is_told_of_above_what_was_seen_last() {
    let sample = sample(1).stale("agent at /run/x: Connection refused".into());
    let lines = frame(&sample, &mut Place::default(), 100, usize::MAX, false);
    assert!(lines[0].contains("does not answer"), "{lines:#?}");
    assert!(lines[3].contains("Connection refused"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("tor1")));
}
