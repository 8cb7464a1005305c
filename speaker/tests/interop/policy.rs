//! Filters and limits against BIRD 2, as root in namespaces of their own.
//!
//! 1. Import rules match communities, large communities and how the AS_PATH begins (RFC 1997, RFC 8092);
//!    operations change what comes in and what goes out.
//! 2. Interfaces match with `*`.
//! 3. A peer that sends too many prefixes is warned of, or stays out until its limit is changed (RFC 4486).

use anyhow::{Result, ensure};
use margay_lab::eventually;
use margay_speaker::{
    Action, Community, FilterConfig, FilterRule, LocalAction, LocalAttrs, LocalRouteChange,
    MaxPrefixesAction, Operation, PeerConfig, State,
};

use crate::support::{Bird, Lab, PATIENCE, config, them};

/// BIRD with a route each for a community, a large one and a longer path.
fn bird(lab: &Lab) -> Result<Bird> {
    lab.bird_with(
        "router id 192.0.2.2;
         protocol device {}
         protocol static s4 { ipv4; route 10.1.0.0/24 blackhole; route 10.2.0.0/24 blackhole;
           route 10.3.0.0/24 blackhole; route 10.4.0.0/24 blackhole; }
         protocol bgp p1 { local 192.0.2.2 as 65002; neighbor 192.0.2.1 as 65001;
           connect retry time 1; connect delay time 1; error wait time 1, 2;
           ipv4 { import all; export filter {
             if source != RTS_STATIC then reject;
             if net = 10.1.0.0/24 then bgp_community.add((65002, 1));
             if net = 10.2.0.0/24 then bgp_large_community.add((65002, 1, 2));
             if net = 10.3.0.0/24 then bgp_path.prepend(65010);
             accept; }; };
           ipv6 { import all; export none; }; }",
    )
}

fn rule(action: Action) -> FilterRule {
    FilterRule::any(action)
}

#[test]
fn communities_and_paths_are_matched_and_changed() -> Result<()> {
    let lab = Lab::new()?;
    let bird = bird(&lab)?;
    let import = FilterConfig {
        rules: vec![
            FilterRule {
                community: Some(Community::Standard(65002 << 16 | 1)),
                operations: vec![Operation::SetLocalPref(300), Operation::AddCommunity(9)],
                ..rule(Action::Accept)
            },
            FilterRule {
                community: Some(Community::Large([65002, 1, 2])),
                ..rule(Action::Reject)
            },
            FilterRule {
                as_path_prefix: vec![65002, 65010],
                ..rule(Action::Reject)
            },
        ],
        default: Action::Accept,
    };
    let export = FilterConfig {
        rules: vec![FilterRule {
            operations: vec![
                Operation::AddLargeCommunity([65001, 3, 4]),
                Operation::PrependAsPath(vec![65020, 65021]),
            ],
            ..rule(Action::Accept)
        }],
        default: Action::Reject,
    };
    let ours = lab.speaker(&config(PeerConfig {
        import,
        export,
        ..them()
    }))?;
    ours.originate(&["198.51.100.0/24"], true)?;
    ours.is_up()?;
    ours.learns("10.1.0.0/24")?;
    ours.learns("10.4.0.0/24")?;
    let learnt = ours.learnt()?;
    ensure!(learnt.len() == 2, "{learnt:?}");
    let best = ours.best("10.1.0.0/24")?;
    ensure!(best.attrs.local_pref == Some(300), "{best:?}");
    ensure!(best.attrs.communities.contains(&9), "{best:?}");
    let shown = "show route all 198.51.100.0/24";
    bird.shows(shown, "BGP.large_community: (65001, 3, 4)")?;
    bird.shows(shown, "BGP.as_path: 65001 65020 65021")
}

#[test]
fn interfaces_are_matched() -> Result<()> {
    let lab = Lab::new()?;
    let bird = bird(&lab)?;
    let only = |pattern: &str| FilterConfig {
        rules: vec![FilterRule {
            interface: Some(pattern.to_owned()),
            ..rule(Action::Accept)
        }],
        default: Action::Reject,
    };
    let ours = lab.speaker(&config(PeerConfig {
        import: only("eth*"),
        export: only("mgy*"),
        ..them()
    }))?;
    let route = |prefix: &str, interface: &str| -> Result<LocalRouteChange> {
        let attrs = LocalAttrs {
            interface: interface.to_owned(),
            ..LocalAttrs::default()
        };
        Ok(LocalRouteChange {
            prefix: prefix.parse()?,
            action: LocalAction::Announce(attrs),
        })
    };
    let routes = vec![
        route("198.51.100.1/32", "mgy12ab")?,
        route("198.51.100.2/32", "dummy0")?,
    ];
    ours.runtime.block_on(ours.speaker.originate(routes))?;
    ours.is_up()?;
    ours.learns("10.4.0.0/24")?;
    bird.shows("show route", "198.51.100.1/32")?;
    bird.shows_no("show route", "198.51.100.2/32")?;
    let mut ours = ours;
    let none = config(PeerConfig {
        import: only("eth1"),
        ..them()
    });
    ours.runtime.block_on(ours.speaker.configure(none))?;
    ours.loses("10.4.0.0/24")
}

#[test]
fn too_many_prefixes_warn_or_stop() -> Result<()> {
    let lab = Lab::new()?;
    let _bird = bird(&lab)?;
    let limited = |max, action| {
        config(PeerConfig {
            max_prefixes: Some(max),
            max_prefixes_action: action,
            ..them()
        })
    };
    let mut ours = lab.speaker(&limited(2, MaxPrefixesAction::Warn))?;
    ours.learns("10.4.0.0/24")?;
    ensure!(ours.status()?.state == State::Established);
    let stop = limited(3, MaxPrefixesAction::Stop);
    ours.runtime.block_on(ours.speaker.configure(stop))?;
    eventually(PATIENCE, "the peer is stopped", || {
        let status = ours.status()?;
        let told = status.last_error.unwrap_or_default();
        ensure!(told.contains("maximum number of prefixes"), "{told}");
        ensure!(status.state == State::Idle, "{:?}", status.state);
        Ok(())
    })?;
    let count = ours.status()?.established_count;
    let enough = limited(4, MaxPrefixesAction::Stop);
    ours.runtime.block_on(ours.speaker.configure(enough))?;
    ours.learns("10.4.0.0/24")?;
    ensure!(ours.status()?.established_count == count + 1);
    Ok(())
}
