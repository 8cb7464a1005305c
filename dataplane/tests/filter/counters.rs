//! What rules matched can be read back.

use margay_dataplane::filter::{
    Action, Backend, Direction, PolicyRules, Rule, RulesId, Tier, TierDefault,
};

use crate::lab::{Lab, allow_all, apply, endpoint, filter, id, open_endpoint, reaches, serve, tcp};

crate::all_backends!(each_rule_counts_what_it_matched_and_staged_rules_only_count);

fn each_rule_counts_what_it_matched_and_staged_rules_only_count(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let _server = serve(&b.netns, &[80, 81, 82]);
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    let staged = |ports: &[u16]| tcp(Action::CountAndStop(None), ports);
    let note = tcp(Action::CountAndGoOn, &[80, 81, 82]);
    filter.set_policy(
        "staged".into(),
        PolicyRules {
            ingress: vec![note, staged(&[82]), staged(&[80, 82])],
            ..PolicyRules::default()
        },
    );
    // So many ports that one line cannot name them.
    let many: Vec<u16> = (1000..1040).chain([80]).collect();
    filter.set_policy(
        "p".into(),
        PolicyRules {
            ingress: vec![
                tcp(Action::Deny, &[81]),
                tcp(Action::Allow, &many),
                Rule::any(Action::Allow),
            ],
            ..PolicyRules::default()
        },
    );
    let direction = Direction {
        tiers: vec![Tier {
            name: "default".into(),
            policies: vec!["staged".into(), "p".into()],
            default_action: TierDefault::Deny,
        }],
    };
    filter
        .set_endpoint(id(&b), endpoint(&b, direction, Direction::default()))
        .unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    for to in [b.v4, b.v4, b.v6] {
        assert!(reaches(&a.netns, to, 80), "{to}");
    }
    assert!(reaches(&a.netns, b.v6, 82));
    assert!(!reaches(&a.netns, b.v4, 81));
    let counters = filter.counters().unwrap();
    let ingress = |id: RulesId| -> Vec<u64> {
        let found = counters.iter().find(|rules| rules.id == id);
        let hits = &found.unwrap().ingress;
        assert!(hits.iter().all(|h| h.bytes >= h.packets * 40));
        hits.iter().map(|h| h.packets).collect()
    };
    let denied = ingress(RulesId::Policy("p".into()))[0];
    assert!(denied > 0, "one try, perhaps sent again");
    assert_eq!(ingress(RulesId::Policy("p".into())), [denied, 3, 1]);
    assert_eq!(
        ingress(RulesId::Policy("staged".into())),
        [denied + 4, 1, 3]
    );
}
