//! A small name server on the loopback address.

use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;

/// An answer to `question` with these records; the owner's name points at the question.
fn reply(question: &[u8], flags: u16, services: &[(u16, u16, u16, &str)]) -> Vec<u8> {
    let count = u16::try_from(services.len()).unwrap();
    let mut reply = question[..2].to_vec();
    for word in [0x8180 | flags, 1, count, 0, 0] {
        reply.extend(word.to_be_bytes());
    }
    reply.extend(&question[12..]);
    for (priority, weight, port, host) in services {
        let mut data = Vec::new();
        for word in [priority, weight, port] {
            data.extend(word.to_be_bytes());
        }
        for label in host.split('.').filter(|label| !label.is_empty()) {
            data.push(u8::try_from(label.len()).unwrap());
            data.extend(label.as_bytes());
        }
        data.push(0);
        for word in [0xc00c, 33, 1, 0, 60, u16::try_from(data.len()).unwrap()] {
            reply.extend(word.to_be_bytes());
        }
        reply.extend(data);
    }
    reply
}

/// Answers that many datagrams by `answer`.
fn serve(
    datagrams: usize,
    answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..datagrams {
            let mut buffer = [0; 512];
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&answer(&buffer[..length]), client).unwrap();
        }
    });
    (address, server)
}

/// Whether a question is for the service with TLS.
fn is_tls(question: &[u8]) -> bool {
    question.windows(3).any(|window| window == b"ssl")
}

#[test]
fn endpoints_stand_by_priority_and_weight_with_tls_first() {
    let (address, server) = serve(2, |question| match is_tls(question) {
        true => reply(
            question,
            0,
            &[
                (20, 0, 2379, "c.example.com"),
                (10, 1, 2379, "a.example.com"),
                (10, 5, 2380, "b.example.com"),
            ],
        ),
        false => reply(question, 0, &[(0, 0, 2379, "plain.example.com")]),
    });
    assert_eq!(
        endpoints_by(&[address], "example.com").unwrap(),
        [
            "https://b.example.com:2380",
            "https://a.example.com:2379",
            "https://c.example.com:2379",
            "http://plain.example.com:2379",
        ]
    );
    server.join().unwrap();
}

#[test]
fn a_domain_without_records_is_named() {
    for flags in [0, 3] {
        let (address, server) = serve(2, move |question| reply(question, flags, &[]));
        let error = endpoints_by(&[address], "example.com").unwrap_err();
        assert!(matches!(error, SrvError::NoRecord { .. }), "{error}");
        assert!(error.to_string().contains("example.com"), "{error}");
        server.join().unwrap();
    }
    // A single dot says that there is no such service.
    let (address, server) = serve(2, |question| reply(question, 0, &[(0, 0, 0, "")]));
    let error = endpoints_by(&[address], "example.com").unwrap_err();
    assert!(matches!(error, SrvError::NoRecord { .. }), "{error}");
    server.join().unwrap();
}

#[test]
fn the_next_name_server_is_asked_when_one_fails() {
    let (refuses, first) = serve(2, |question| reply(question, 5, &[]));
    let (garbles, second) = serve(2, |_question| b"what?".to_vec());
    let (answers, third) = serve(2, |question| reply(question, 0, &[(0, 0, 1, "a.b")]));
    let found = endpoints_by(&[refuses, garbles, answers], "b").unwrap();
    assert_eq!(found, ["https://a.b:1", "http://a.b:1"]);
    for server in [first, second, third] {
        server.join().unwrap();
    }
    let (refuses, server) = serve(ROUNDS, |question| reply(question, 2, &[]));
    let error = endpoints_by(&[refuses], "b").unwrap_err().to_string();
    assert!(error.contains("answers with code 2"), "{error}");
    server.join().unwrap();
}

#[test]
fn an_answer_that_was_cut_off_is_asked_for_by_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    let server = std::thread::spawn(move || {
        for _ in SERVICES {
            let mut buffer = [0; 512];
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            let cut = reply(&buffer[..length], 0x0200, &[]);
            socket.send_to(&cut, client).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; length + 2];
            stream.read_exact(&mut asked).unwrap();
            let hosts: Vec<_> = (0..30).map(|i| format!("h{i}.example.com")).collect();
            let services: Vec<_> = hosts
                .iter()
                .map(|host| (0, 0, 2379, host.as_str()))
                .collect();
            let reply = reply(&asked[2..], 0, &services);
            let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length, &*reply].concat()).unwrap();
        }
    });
    let found = endpoints_by(&[address], "example.com").unwrap();
    assert_eq!(found.len(), 60);
    assert_eq!(found[29], "https://h29.example.com:2379");
    server.join().unwrap();
}

#[test]
fn names_and_servers_are_checked() {
    assert_eq!(
        name_servers("# x\nsearch a\nnameserver 192.0.2.1\n nameserver\t::1 \nnameserver x\n"),
        ["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]
    );
    let server = ["127.0.0.1:9".parse().unwrap()];
    for bad in ["", "a..b", &"a".repeat(64), &"a.".repeat(130)] {
        let error = endpoints_by(&server, bad).unwrap_err();
        assert!(
            matches!(error, SrvError::BadDomain { .. }),
            "{bad}: {error}"
        );
    }
    let error = endpoints_by(&[], "example.com").unwrap_err();
    assert!(matches!(error, SrvError::NoNameServer));
}

#[test]
fn broken_answers_are_no_answers() {
    let question = question(7, "_etcd-client._tcp.example.com").unwrap();
    let good = reply(&question, 0, &[(1, 2, 3, "a.example.com")]);
    assert!(matches!(answer(7, &good), Some(Answer::Services(found)) if found.len() == 1));
    assert_eq!(answer(8, &good), None);
    for length in 0..good.len() {
        assert_eq!(answer(7, &good[..length]), None, "{length}");
    }
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        answer(7, &bytes);
    }
    // A name that points at itself has no end.
    let mut circle = good;
    circle[12] = 0xc0;
    circle[13] = 12;
    assert_eq!(answer(7, &circle), None);
}
