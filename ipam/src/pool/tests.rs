use super::*;

fn pool(name: &str, cidr: &str, block_len: u8) -> Pool {
    Pool {
        name: name.to_owned(),
        cidr: cidr.parse().unwrap(),
        block_len,
        disabled: false,
        automatic: true,
        uses: vec![PoolUse::Workload, PoolUse::Tunnel],
        selects_node: true,
        namespace_selector: None,
        created: String::new(),
    }
}

fn select(pools: &Pools, requested: &[&str], family: Family) -> Result<Vec<String>, String> {
    let requested: Vec<Requested> = requested.iter().map(|r| r.parse().unwrap()).collect();
    let chosen = pools.select(&requested, family, PoolUse::Workload, |s| s == "yes");
    chosen
        .map(|c| c.iter().map(|p| p.name.clone()).collect())
        .map_err(|e| e.to_string())
}

#[test]
fn without_a_request_the_enabled_automatic_selected_pools_serve_in_order_of_name() {
    let mut off = pool("off", "10.1.0.0/16", 26);
    off.disabled = true;
    let mut manual = pool("manual", "10.2.0.0/16", 26);
    manual.automatic = false;
    let mut elsewhere = pool("elsewhere", "10.3.0.0/16", 26);
    elsewhere.selects_node = false;
    let mut tunnel = pool("tunnel", "10.4.0.0/16", 26);
    tunnel.uses = vec![PoolUse::Tunnel];
    let mut yes = pool("yes", "10.5.0.0/16", 26);
    yes.namespace_selector = Some("yes".to_owned());
    let mut no = pool("no", "10.6.0.0/16", 26);
    no.namespace_selector = Some("no".to_owned());
    let others = [off, manual, elsewhere, tunnel, no];
    let pools = Pools::new(
        others
            .clone()
            .into_iter()
            .chain([yes, pool("a", "10.0.0.0/16", 26)]),
    );
    assert_eq!(select(&pools, &[], Family::V4).unwrap(), ["a", "yes"]);
    assert_eq!(
        select(&Pools::new(others), &[], Family::V4).unwrap_err(),
        "no IPv4 pool serves node and namespace (elsewhere: nodeSelector does not match; \
         manual: only assigned on request; no: namespaceSelector does not match; off: disabled; \
         tunnel: not for this use)"
    );
    assert_eq!(
        select(&pools, &[], Family::V6).unwrap_err(),
        "no IPv6 pool serves node and namespace (there is none)"
    );
}

#[test]
fn requested_pools_must_all_fit_and_ignore_selectors() {
    let mut far = pool("far", "10.3.0.0/16", 26);
    far.selects_node = false;
    far.automatic = false;
    let mut off = pool("off", "10.4.0.0/16", 26);
    off.disabled = true;
    let pools = Pools::new([pool("a", "10.0.0.0/16", 26), far, off]);
    let ask = |names: &[&str], family| select(&pools, names, family);
    assert_eq!(
        ask(&["far", "10.0.0.0/16", "a"], Family::V4).unwrap(),
        ["far", "a"]
    );
    for (names, family, reason) in [
        (["a", "b"], Family::V4, "pool \"b\" does not exist"),
        (
            ["a", "10.9.0.0/16"],
            Family::V4,
            "pool \"10.9.0.0/16\" does not exist",
        ),
        (["a", "off"], Family::V4, "pool \"off\" is disabled"),
        (
            ["a", "a"],
            Family::V6,
            "pool \"a\" (10.0.0.0/16) is not an IPv6 pool",
        ),
    ] {
        assert_eq!(ask(&names, family).unwrap_err(), reason);
    }
}

#[test]
fn of_overlapping_pools_the_older_one_serves() {
    let mut young = pool("a", "10.0.0.0/17", 26);
    young.created = "2026-02-01T00:00:00Z".to_owned();
    let mut old = pool("b", "10.0.0.0/16", 26);
    old.created = "2026-01-01T00:00:00Z".to_owned();
    let pools = Pools::new([young, old, pool("odd", "10.9.0.0/27", 26)]);
    assert_eq!(select(&pools, &[], Family::V4).unwrap(), ["b"]);
    assert_eq!(
        pools.of_address("10.0.0.1".parse().unwrap()).unwrap().name,
        "b"
    );
    let faults: Vec<_> = pools.faults().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "pool \"a\" is not used: its range overlaps that of the older pool \"b\"",
            "pool \"odd\" is not used: blockSize 26 is not in 27 to 32",
        ]
    );
    assert!(
        select(&pools, &["a"], Family::V4)
            .unwrap_err()
            .contains("overlaps")
    );
}

#[test]
fn every_free_block_is_found_whatever_the_seed_and_none_twice() {
    for (cidr, len, count) in [
        ("10.0.0.0/24", 26, 4),
        ("10.0.0.8/30", 32, 4),
        ("fd00::/119", 122, 8),
        ("0.0.0.0/20", 22, 4),
        ("255.255.240.0/20", 22, 4),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120", 122, 4),
    ] {
        let pool = pool("p", cidr, len);
        for seed in 0..count as u64 + 3 {
            let mut taken: Vec<BlockCidr> = Vec::new();
            loop {
                let occupied: AddressSet = taken.iter().copied().collect();
                match pool.free_block(seed, &occupied, &AddressSet::default()) {
                    Some(block) => {
                        assert!(pool.contains_block(block) && !taken.contains(&block));
                        taken.push(block);
                    }
                    None => break,
                }
            }
            assert_eq!(taken.len(), count, "{cidr}");
        }
    }
}

#[test]
fn a_huge_pool_with_huge_reservations_is_searched_at_once() {
    let pool = pool("p", "fd00::/16", 122);
    let reserved: AddressSet = ["fd00::/17", "fd00:8000::/18", "fd00:c000::1/128"]
        .map(|c| c.parse::<Cidr>().unwrap())
        .into_iter()
        .collect();
    let block = pool
        .free_block(0, &AddressSet::default(), &reserved)
        .unwrap();
    // Reserved in part only, so it is usable.
    assert_eq!(block.to_string(), "fd00:c000::/122");
    let all: AddressSet = ["::/0".parse::<Cidr>().unwrap()].into_iter().collect();
    assert_eq!(pool.free_block(7, &AddressSet::default(), &all), None);
}

#[test]
fn blocks_of_another_size_are_in_the_way() {
    let pool = pool("p", "10.0.0.0/24", 27);
    let occupied: AddressSet = ["10.0.0.0/26", "10.0.0.96/28"]
        .map(|c| c.parse::<BlockCidr>().unwrap())
        .into_iter()
        .collect();
    let block = pool
        .free_block(0, &occupied, &AddressSet::default())
        .unwrap();
    assert_eq!(block.to_string(), "10.0.0.64/27");
    let block = pool
        .free_block(3, &occupied, &AddressSet::default())
        .unwrap();
    assert_eq!(block.to_string(), "10.0.0.128/27");
}
