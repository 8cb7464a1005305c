//! Connections that are marked as ended: nothing of them passes either way, and others go on.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use margay_dataplane::{
    conntrack::{self, Connection, Ends},
    filter::{Backend, Globals, ended_mark},
};

use crate::lab::{Lab, allow_all, apply, filter, id, inside, open_endpoint};

crate::all_backends!(a_marked_connection_ends_and_goes_on_without_the_mark);

const QUICK: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(60);

/// Both ends of a connection.
fn connected(from: &str, at: &str, to: IpAddr) -> (TcpStream, TcpStream) {
    let listener = inside(at, || TcpListener::bind((to, 0)).unwrap());
    let to = SocketAddr::new(to, listener.local_addr().unwrap().port());
    let client = inside(from, || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

/// Whether a byte gets from one end to the other within this time.
fn passes(from: &mut TcpStream, to: &mut TcpStream, within: Duration) -> bool {
    to.set_read_timeout(Some(within)).unwrap();
    from.write_all(b"x").unwrap();
    to.read_exact(&mut [0]).is_ok()
}

fn a_marked_connection_ends_and_goes_on_without_the_mark(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    // For an address of the host's own.
    let (_outside, host_end) = (lab.outside(), lab.host.clone());
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    for workload in [&a, &b] {
        filter
            .set_endpoint(id(workload), open_endpoint(workload))
            .unwrap();
    }
    filter.allow_deletes();
    apply(&mut filter);
    let globals = Globals::default();
    let bit = ended_mark(globals.mark_mask);
    for to in [b.v4, b.v6] {
        let (mut client, mut server) = connected(&a.netns, &b.netns, to);
        let (mut other, mut beside) = connected(&a.netns, &b.netns, to);
        // And one that the host itself opened.
        let (mut own, mut far) = connected(&host_end, &b.netns, to);
        let port = |stream: &TcpStream| stream.local_addr().unwrap().port();
        let chosen = [port(&client), port(&own)];
        let ends = Ends {
            addresses: [to].into(),
            nets: Vec::new(),
        };
        let found = conntrack::connections(&ends).unwrap();
        let is_chosen = |c: &Connection| chosen.contains(&c.ports.0);
        let marked = |set: bool| -> Vec<(Connection, bool)> {
            let chosen = found.iter().filter(|c| is_chosen(c)).cloned();
            chosen.map(|c| (c, set)).collect()
        };
        conntrack::mark(&marked(true), bit).unwrap();
        assert!(!passes(&mut client, &mut server, QUICK), "{to}");
        assert!(!passes(&mut server, &mut client, QUICK), "{to}: back");
        assert!(!passes(&mut own, &mut far, QUICK), "{to}: the host's");
        assert!(passes(&mut other, &mut beside, PATIENCE), "{to}: another");
        conntrack::mark(&marked(false), bit).unwrap();
        assert!(passes(&mut client, &mut server, PATIENCE), "{to}: again");
        assert!(passes(&mut server, &mut client, PATIENCE), "{to}: again");
        assert!(passes(&mut own, &mut far, PATIENCE), "{to}: again");
    }
    let keep = Globals {
        end_denied: false,
        ..Globals::default()
    };
    filter.set_globals(keep).unwrap();
    apply(&mut filter);
    let (mut client, mut server) = connected(&a.netns, &b.netns, b.v4);
    let ends = Ends {
        addresses: [b.v4].into(),
        nets: Vec::new(),
    };
    let all = conntrack::connections(&ends).unwrap();
    let all: Vec<_> = all.into_iter().map(|c| (c, true)).collect();
    conntrack::mark(&all, bit).unwrap();
    assert!(passes(&mut client, &mut server, PATIENCE));
}
