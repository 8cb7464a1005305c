//! Programs that fail: nothing opens, the rest goes on, and it converges.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, thread, time::Duration};

use margay_dataplane::filter::{Action, Backend, Config, Direction, Filter, Programs, Rule, Wish};

use crate::lab::{
    Lab, NFT, allow_all, apply, by_hand, endpoint, id, ingress, open_endpoint, reaches, run, serve,
    tcp, tier,
};

crate::both_variants!(
    a_batch_that_is_cut_short_is_done_again_and_opens_nothing,
    a_refused_policy_does_not_hold_up_the_others,
    a_program_that_always_fails_leaves_everything_closed,
    what_decides_nothing_keeps_nobody_out_where_it_is_refused,
);

/// Puts a script in place of a variant's `iptables-restore`; it may call the real one as `$real`.
fn replace_restore(directory: &Path, backend: Backend, script: &str) {
    for base in ["iptables", "ip6tables"] {
        let name = format!("{base}-{}-restore", by_hand(backend));
        let path = directory.join(&name);
        fs::write(
            &path,
            format!("#!/bin/sh\nreal=/usr/sbin/{name}\ncat > $0.$$\n{script}"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn open(directory: &Path, backend: Backend) -> Filter {
    let programs = Programs {
        directory: Some(directory.to_owned()),
        ..Programs::default()
    };
    let mut filter = Filter::open(Config {
        backend: Wish::Exactly(backend),
        programs,
        ..Config::default()
    })
    .unwrap();
    filter.set_profile("open".into(), allow_all());
    filter.allow_deletes();
    filter
}

/// Applies until nothing is left to do.
fn settle(filter: &mut Filter) {
    for _ in 0..100 {
        let report = filter.apply();
        let Some(wait) = report.retry_in else {
            assert!(report.is_ok(), "{:?}", report.failures);
            return;
        };
        thread::sleep(wait.min(Duration::from_secs(2)));
    }
    panic!("does not settle");
}

fn a_batch_that_is_cut_short_is_done_again_and_opens_nothing(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    let directory = tempfile::tempdir().unwrap();
    let mut filter = open(directory.path(), backend);
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    filter.set_policy("p".into(), ingress(vec![tcp(Action::Allow, &[80])]));
    filter
        .set_endpoint(id(&b), endpoint(&b, tier(&["p"]), Direction::default()))
        .unwrap();
    // Only the first table of the batch is done, then the program dies.
    let cut = "sed '/^COMMIT/q' $0.$$ | $real \"$@\"; kill -9 $$";
    replace_restore(directory.path(), backend, cut);
    let report = filter.apply();
    assert!(!report.is_ok() && report.retry_in.is_some());
    replace_restore(directory.path(), backend, "exec $real \"$@\" < $0.$$");
    settle(&mut filter);
    assert!(reaches(&a.netns, b.v4, 80) && !reaches(&a.netns, b.v4, 81));
    // The same for a change: the endpoint goes to a new group whose chains do not arrive.
    replace_restore(directory.path(), backend, "kill -9 $$");
    filter.set_policy("q".into(), ingress(vec![tcp(Action::Allow, &[81])]));
    filter
        .set_endpoint(id(&b), endpoint(&b, tier(&["q"]), Direction::default()))
        .unwrap();
    assert!(!filter.apply().is_ok());
    assert!(
        reaches(&a.netns, b.v4, 80) && !reaches(&a.netns, b.v4, 81),
        "the earlier verdict"
    );
    replace_restore(directory.path(), backend, "exec $real \"$@\" < $0.$$");
    settle(&mut filter);
    assert!(!reaches(&a.netns, b.v4, 80) && reaches(&a.netns, b.v4, 81));
}

fn a_refused_policy_does_not_hold_up_the_others(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b, c) = (lab.workload(1), lab.workload(2), lab.workload(3));
    let _servers = [serve(&b.netns, &[80]), serve(&c.netns, &[80])];
    let directory = tempfile::tempdir().unwrap();
    let refuse = "grep -q poison $0.$$ && { echo 'line 3 failed' >&2; exit 2; }
                  exec $real \"$@\" < $0.$$";
    replace_restore(directory.path(), backend, refuse);
    let mut filter = open(directory.path(), backend);
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    let poison = Rule {
        comment: Some("poison".to_owned()),
        ..Rule::any(Action::Allow)
    };
    filter.set_policy("bad".into(), ingress(vec![poison.clone()]));
    filter.set_policy("good".into(), ingress(vec![tcp(Action::Allow, &[80])]));
    filter
        .set_endpoint(id(&b), endpoint(&b, tier(&["good"]), Direction::default()))
        .unwrap();
    filter
        .set_endpoint(id(&c), endpoint(&c, tier(&["bad"]), Direction::default()))
        .unwrap();
    let report = filter.apply();
    assert_eq!(
        report.failures.len(),
        2,
        "one chain in each family: {:?}",
        report.failures
    );
    assert!(
        report.failures[0].object.contains("mgy-pi-"),
        "{:?}",
        report.failures
    );
    assert!(
        report.failures[0].error.contains("line 3 failed"),
        "{:?}",
        report.failures
    );
    assert!(report.retry_in.is_some());
    assert!(filter.in_force(&id(&a)) && filter.in_force(&id(&b)) && !filter.in_force(&id(&c)));
    let again = filter.apply();
    assert_eq!(
        again.failures.len(),
        2,
        "told until it is over: {:?}",
        again.failures
    );
    assert!(reaches(&a.netns, b.v4, 80), "the others are in force");
    assert!(!reaches(&a.netns, c.v4, 80), "the refused one drops");
    // A policy that was in force keeps its rules when the new ones are refused.
    filter.set_policy("good".into(), ingress(vec![poison]));
    assert!(!filter.apply().is_ok());
    assert!(reaches(&a.netns, b.v4, 80));
    filter.set_policy("bad".into(), allow_all());
    filter.set_policy("good".into(), ingress(vec![]));
    settle(&mut filter);
    assert!(!reaches(&a.netns, b.v4, 80) && reaches(&a.netns, c.v4, 80));
}

fn a_program_that_always_fails_leaves_everything_closed(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80]);
    let directory = tempfile::tempdir().unwrap();
    let mut filter = open(directory.path(), backend);
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    apply(&mut filter);
    replace_restore(directory.path(), backend, "echo 'no more' >&2; exit 1");
    let shut = endpoint(&b, tier(&["new"]), Direction::default());
    filter.set_policy("new".into(), allow_all());
    filter.set_endpoint(id(&b), shut).unwrap();
    let report = filter.apply();
    assert!(
        !report.is_ok() && !filter.in_force(&id(&b)),
        "so that an attachment can be refused"
    );
    assert!(!reaches(&a.netns, b.v4, 80));
    run(&format!("iptables-{}-save > /dev/null", by_hand(backend)));
    replace_restore(directory.path(), backend, "exec $real \"$@\" < $0.$$");
    settle(&mut filter);
    assert!(reaches(&a.netns, b.v4, 80) && filter.in_force(&id(&b)));
}

fn what_decides_nothing_keeps_nobody_out_where_it_is_refused(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81]);
    let directory = tempfile::tempdir().unwrap();
    let refuse = "grep -q TCPMSS $0.$$ && { echo 'no such target' >&2; exit 2; }
                  exec $real \"$@\" < $0.$$";
    replace_restore(directory.path(), backend, refuse);
    let mut filter = open(directory.path(), backend);
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    filter.set_policy("p".into(), ingress(vec![tcp(Action::Allow, &[80])]));
    filter
        .set_endpoint(id(&b), endpoint(&b, tier(&["p"]), Direction::default()))
        .unwrap();
    let report = filter.apply();
    let told: Vec<&str> = report.failures.iter().map(|f| f.object.as_str()).collect();
    assert_eq!(
        told,
        ["IPv4 filter chain mgy-mss", "IPv6 filter chain mgy-mss"]
    );
    assert!(filter.in_force(&id(&a)) && filter.in_force(&id(&b)));
    assert!(reaches(&a.netns, b.v4, 80) && !reaches(&a.netns, b.v4, 81));
}

/// The kernel takes one network with at most 64 interfaces into a set.
#[test]
fn a_refused_member_keeps_no_other_out() {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80]);
    let directory = tempfile::tempdir().unwrap();
    let mut filter = open(directory.path(), NFT);
    for n in 0..66 {
        let mut sharing = open_endpoint(&a);
        sharing.ifname = format!("mgya{n}");
        sharing.addresses = vec!["10.1.0.0/16".parse().unwrap()];
        filter
            .set_endpoint(sharing.ifname.as_str().into(), sharing)
            .unwrap();
    }
    let report = filter.apply();
    assert_eq!(
        report.failures.len(),
        2,
        "the workloads and the group: {:?}",
        report.failures
    );
    for workload in [&a, &b] {
        filter
            .set_endpoint(id(workload), open_endpoint(workload))
            .unwrap();
        filter.apply();
        assert!(filter.in_force(&id(workload)));
    }
    assert!(reaches(&a.netns, b.v4, 80));
    let refused = |n: &u32| !filter.in_force(&format!("mgya{n}").as_str().into());
    assert!((1..10).contains(&(0..66).filter(refused).count()));
    for n in 0..66 {
        filter.remove_endpoint(&format!("mgya{n}").as_str().into());
    }
    settle(&mut filter);
}
