//! Ports of the host that lead to workloads.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use margay_dataplane::{
    conntrack,
    filter::{Backend, Endpoint, Filter, HostPort},
};

use crate::lab::{
    Lab, Workload, allow_all, apply, connect, filter, id, ingress, inside, open_endpoint, pings,
    reaches, run, save, serve, tcp, tier,
};

crate::all_backends!(
    a_port_of_the_host_leads_to_its_workload_for_everybody,
    a_port_at_one_address_is_open_at_no_other,
    policy_sees_the_workload_and_its_port,
    ports_outlive_the_agent_and_go_with_the_endpoint,
    a_flow_of_udp_is_led_anew_once_it_is_forgotten,
    a_floating_ip_leads_to_its_workload_for_everybody,
);

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

fn port(protocol: u8, host_port: u16, port: u16) -> HostPort {
    HostPort {
        protocol,
        host_port,
        host_ip: None,
        port,
    }
}

fn with_ports(workload: &Workload, ports: &[HostPort]) -> Endpoint {
    Endpoint {
        host_ports: ports.to_vec(),
        ..open_endpoint(workload)
    }
}

fn open(backend: Backend) -> Filter {
    let mut filter = filter(backend);
    filter.set_profile("open".into(), allow_all());
    filter.allow_deletes();
    filter
}

fn host() -> [IpAddr; 2] {
    HOST.map(|ip| ip.parse().unwrap())
}

fn a_port_of_the_host_leads_to_its_workload_for_everybody(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let outside = lab.outside();
    run(&format!(
        "ip -n {outside} route add default via 192.0.2.1; ip -n {outside} -6 route add default via 2001:db8::1"
    ));
    run("sysctl -qw net.ipv4.conf.mgy1.route_localnet=1");
    let _server = serve(&a.netns, &[80]);
    let mut filter = open(backend);
    filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
    // SCTP has no sockets here: that the rule is taken is what can be seen.
    let ports = [port(6, 8080, 80), port(17, 8080, 80), port(132, 8080, 80)];
    filter.set_endpoint(id(&a), with_ports(&a, &ports)).unwrap();
    apply(&mut filter);
    assert!(filter.in_force(&id(&a)));
    let [v4, v6] = host();
    for to in [v4, v6] {
        // The client's own address is seen, except where the answer would not come back.
        let seen = connect(&outside, to, 8080).map(|ip| ip.to_string());
        let client = if to.is_ipv4() {
            "192.0.2.2"
        } else {
            "2001:db8::2"
        };
        assert_eq!(seen.as_deref(), Some(client), "{to}");
        let own = if to.is_ipv4() { b.v4 } else { b.v6 };
        assert_eq!(connect(&b.netns, to, 8080), Some(own), "{to}");
        let itself = connect(&a.netns, to, 8080);
        assert!(
            itself.is_some_and(|ip| ip != a.v4 && ip != a.v6),
            "{to}: {itself:?}"
        );
        assert!(reaches(&lab.host, to, 8080), "{to}");
        assert!(!reaches(&outside, to, 80), "{to}");
        assert!(pings(&outside, to), "{to}");
    }
    assert!(reaches(&lab.host, "127.0.0.1".parse().unwrap(), 8080));
    // What goes through this host to the same port elsewhere is nobody's here.
    assert!(!reaches(&outside, b.v4, 8080));
}

fn a_port_at_one_address_is_open_at_no_other(backend: Backend) {
    let mut lab = Lab::new();
    let a = lab.workload(1);
    let outside = lab.outside();
    run("ip addr add 192.0.2.3/24 dev up0");
    let _server = serve(&a.netns, &[80]);
    let mut filter = open(backend);
    let at = |ip: &str, number| HostPort {
        host_ip: Some(ip.parse().unwrap()),
        ..port(6, number, 80)
    };
    let ports = [at("192.0.2.3", 8080), at("0.0.0.0", 8081), at("::", 8082)];
    filter.set_endpoint(id(&a), with_ports(&a, &ports)).unwrap();
    apply(&mut filter);
    let open = |ip: &str, number| reaches(&outside, ip.parse().unwrap(), number);
    assert!(open("192.0.2.3", 8080) && !open("192.0.2.1", 8080) && !open("2001:db8::1", 8080));
    assert!(open("192.0.2.3", 8081) && open("192.0.2.1", 8081) && !open("2001:db8::1", 8081));
    assert!(!open("192.0.2.1", 8082) && open("2001:db8::1", 8082));
}

fn policy_sees_the_workload_and_its_port(backend: Backend) {
    let mut lab = Lab::new();
    let a = lab.workload(1);
    let outside = lab.outside();
    let _server = serve(&a.netns, &[80, 81]);
    let mut filter = open(backend);
    filter.set_policy(
        "web".into(),
        ingress(vec![tcp(margay_dataplane::filter::Action::Allow, &[80])]),
    );
    let endpoint = Endpoint {
        ingress: tier(&["web"]),
        ..with_ports(&a, &[port(6, 8080, 80), port(6, 8081, 81)])
    };
    filter.set_endpoint(id(&a), endpoint).unwrap();
    apply(&mut filter);
    for to in host() {
        assert!(reaches(&outside, to, 8080), "{to}");
        assert!(!reaches(&outside, to, 8081), "{to}");
    }
}

fn ports_outlive_the_agent_and_go_with_the_endpoint(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let outside = lab.outside();
    let _server = serve(&a.netns, &[80]);
    let [v4, v6] = host();
    let without = {
        let mut filter = open(backend);
        filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
        apply(&mut filter);
        let without = save(backend);
        filter
            .set_endpoint(id(&a), with_ports(&a, &[port(6, 8080, 80)]))
            .unwrap();
        apply(&mut filter);
        without
    };
    // A new agent knows nothing yet.
    let mut filter = filter(backend);
    apply(&mut filter);
    assert!(reaches(&outside, v4, 8080) && reaches(&outside, v6, 8080));
    filter.set_profile("open".into(), allow_all());
    filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
    filter
        .set_endpoint(id(&a), with_ports(&a, &[port(6, 8080, 80)]))
        .unwrap();
    filter.allow_deletes();
    assert_eq!(apply(&mut filter).chains_changed, 0, "it was right");
    assert!(reaches(&outside, v4, 8080) && reaches(&outside, v6, 8080));
    filter.remove_endpoint(&id(&a));
    apply(&mut filter);
    assert!(!reaches(&outside, v4, 8080) && !reaches(&outside, v6, 8080));
    filter.sweep();
    apply(&mut filter);
    assert_eq!(save(backend), without);
}

fn a_flow_of_udp_is_led_anew_once_it_is_forgotten(backend: Backend) {
    let mut lab = Lab::new();
    let a = lab.workload(1);
    let outside = lab.outside();
    let server = inside(&a.netns, || UdpSocket::bind(("0.0.0.0", 53)).unwrap());
    server
        .set_read_timeout(Some(Duration::from_millis(250)))
        .unwrap();
    let client = inside(&outside, || UdpSocket::bind(("0.0.0.0", 5000)).unwrap());
    let to = SocketAddr::new(host()[0], 5353);
    let arrives = || {
        client.send_to(b"x", to).unwrap();
        server.recv(&mut [0; 8]).is_ok()
    };
    let mut filter = open(backend);
    // Conntrack is on from the first rule on, and knows the flow as one to the host.
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    apply(&mut filter);
    assert!(!arrives());
    filter
        .set_endpoint(id(&a), with_ports(&a, &[port(17, 5353, 53)]))
        .unwrap();
    apply(&mut filter);
    conntrack::flush_udp(&[(None, 5353)].into()).unwrap();
    assert!(arrives());
}

fn a_floating_ip_leads_to_its_workload_for_everybody(backend: Backend) {
    let mut lab = Lab::new();
    let (a, b) = (lab.workload(1), lab.workload(2));
    let outside = lab.outside();
    run(&format!(
        "ip -n {outside} route add default via 192.0.2.1; ip -n {outside} -6 route add default via 2001:db8::1"
    ));
    let _server = serve(&a.netns, &[80]);
    let mut filter = open(backend);
    filter.set_endpoint(id(&b), open_endpoint(&b)).unwrap();
    let floating: [IpAddr; 2] = ["203.0.113.7", "2001:db8:7::7"].map(|ip| ip.parse().unwrap());
    let whole = floating.map(|ip| HostPort {
        host_ip: Some(ip),
        ..port(0, 0, 0)
    });
    filter.set_endpoint(id(&a), with_ports(&a, &whole)).unwrap();
    apply(&mut filter);
    // As the agent routes it.
    for ip in floating {
        run(&format!("ip route add {ip} dev {}", a.ifname));
    }
    for to in floating {
        for from in [&outside, &b.netns, &a.netns, &lab.host] {
            assert!(reaches(from, to, 80), "{to}");
        }
        assert!(pings(&outside, to), "{to}");
        assert!(!reaches(&outside, to, 81), "{to}");
    }
    filter.set_endpoint(id(&a), open_endpoint(&a)).unwrap();
    apply(&mut filter);
    assert!(!reaches(&outside, floating[0], 80));
}
