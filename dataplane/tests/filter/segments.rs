//! Connections over a path that takes less than the workload's own interface, while nobody hears of that by ICMP.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use margay_dataplane::filter::{Backend, Globals};

use crate::lab::{Lab, allow_all, apply, by_hand, filter, id, inside, open_endpoint, run};

crate::all_backends!(data_passes_a_path_that_takes_less);

/// Far more than a window at first.
const LENGTH: usize = 300_000;
/// Without clamping nothing comes however long it is waited for.
const QUICK: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether what `from` sends arrives whole on a connection that it opened, or that it answered.
fn arrives(from: (&str, IpAddr), to: (&str, IpAddr), opened: bool, within: Duration) -> bool {
    let (client, server) = if opened { (from, to) } else { (to, from) };
    let listener = inside(server.0, || TcpListener::bind((server.1, 0)).unwrap());
    let at = SocketAddr::new(server.1, listener.local_addr().unwrap().port());
    let near = inside(client.0, || {
        TcpStream::connect_timeout(&at, PATIENCE).unwrap()
    });
    let (far, _) = listener.accept().unwrap();
    let (mut sender, mut receiver) = if opened { (near, far) } else { (far, near) };
    receiver.set_read_timeout(Some(within)).unwrap();
    sender.set_write_timeout(Some(within)).unwrap();
    thread::scope(|scope| {
        // Where nothing gets through, writing ends with an error too: what counts is what arrives.
        scope.spawn(move || drop(sender.write_all(&vec![7; LENGTH])));
        receiver.read_exact(&mut vec![0; LENGTH]).is_ok()
    })
}

fn data_passes_a_path_that_takes_less(backend: Backend) {
    let mut lab = Lab::new();
    let workload = lab.workload(1);
    let outside = lab.outside();
    run(&format!(
        "set -e; o={outside} w={}
         ip route add 192.0.2.2/32 dev up0 mtu lock 1300
         ip -6 route add 2001:db8::2/128 dev up0 mtu lock 1300
         ip -n $o route add 10.65.0.0/24 via 192.0.2.1
         ip -n $o -6 route add fd00:65::/64 via 2001:db8::1
         for n in $o $w; do
           ip netns exec $n sysctl -qw net.ipv4.tcp_mtu_probing=0
           ip netns exec $n iptables-nft -A INPUT -p icmp --icmp-type 3 -j DROP
           ip netns exec $n ip6tables-nft -A INPUT -p icmpv6 --icmpv6-type 2 -j DROP
         done",
        workload.netns
    ));
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter
        .set_endpoint(id(&workload), open_endpoint(&workload))
        .unwrap();
    filter.allow_deletes();
    apply(&mut filter);
    let far = ["192.0.2.2", "2001:db8::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let near = [workload.v4, workload.v6];
    let all = |within: Duration| -> Vec<bool> {
        let pairs = near.into_iter().zip(far);
        let tried = pairs.flat_map(|(near, far)| {
            let (from, to) = ((workload.netns.as_str(), near), (outside.as_str(), far));
            [true, false].map(|opened| arrives(from, to, opened, within))
        });
        tried.collect()
    };
    assert_eq!(all(PATIENCE), [true; 4]);
    let off = Globals {
        clamp_segments: false,
        ..Globals::default()
    };
    filter.set_globals(off).unwrap();
    apply(&mut filter);
    assert_eq!(all(QUICK), [false; 4]);
    let left = match backend {
        Backend::Nftables => run("nft list chains inet"),
        Backend::Iptables(_) => run(&format!("iptables-{}-save", by_hand(backend))),
    };
    assert!(
        !left.contains("mss") && !left.contains("segments"),
        "{left}"
    );
    filter.set_globals(Globals::default()).unwrap();
    apply(&mut filter);
    assert_eq!(all(PATIENCE), [true; 4]);
}
