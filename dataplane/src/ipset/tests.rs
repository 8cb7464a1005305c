use std::net::IpAddr;

use super::{
    wire::{self, Answer, Command},
    *,
};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ifname(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .chunks(4)
        .map(|c| c.iter().map(|b| format!("{b:02x}")).collect::<String>() + " ")
        .collect()
}

#[test]
#[cfg(target_endian = "little")]
fn a_member_is_laid_out_as_the_kernel_wants_it() {
    let entry = Entry::NetIface(net("10.65.0.2/32"), ifname("mgya"));
    let (message, taken) = wire::members(Command::Add, "s", &[entry], 7);
    assert_eq!(taken, 1);
    let expected = [
        "48000000 09060500 07000000 00000000", // nlmsghdr: length, add, request|ack, sequence
        "00000000",                            // nfgenmsg
        "05000100 06000000",                   // protocol 6
        "06000200 73000000",                   // set name "s"
        "24000780",                            // data
        "0c000180 08000140 0a410002",          // address
        "05000300 20000000",                   // prefix length 32
        "09001700 6d677961 00000000",          // interface "mgya"
    ];
    let expected = expected.join(" ");
    assert_eq!(hex(&message).trim(), expected);
}

#[test]
fn many_members_are_split_into_messages_that_attribute_lengths_can_hold() {
    let entries: Vec<Entry> = (0..10_000u32)
        .map(|n| Entry::Net(IpAddr::from(n.to_be_bytes()).into()))
        .collect();
    let mut rest = entries.as_slice();
    let mut messages = 0;
    while !rest.is_empty() {
        let (message, taken) = wire::members(Command::Add, "name", rest, 1);
        assert!(taken > 0 && message.len() < usize::from(u16::MAX));
        rest = &rest[taken..];
        messages += 1;
    }
    assert!((2..10).contains(&messages), "{messages}");
}

#[test]
fn answers_cut_anywhere_are_refused_or_read_but_never_panic() {
    let entries = [
        Entry::NetPort(net("fd00::/64"), 17, 53),
        Entry::NetPort(net("fd00::1/128"), 6, 80),
    ];
    let (message, _) = wire::members(Command::Add, "mgy6n:x", &entries, 1);
    let (answer, rest) = Answer::split(&message).unwrap();
    assert!(rest.is_empty());
    assert_eq!(answer.set_name(), Some("mgy6n:x"));
    let read: Vec<_> = answer.entries(SetType::NetPort).collect();
    assert_eq!(read, entries.map(Some));
    for len in 0..message.len() {
        let mut cut = message[..len].to_vec();
        if let Some(length) = cut.get_mut(..4) {
            length.copy_from_slice(&(len as u32).to_ne_bytes());
        }
        if let Some((answer, _)) = Answer::split(&cut) {
            let _all: Vec<_> = answer.entries(SetType::NetIface).collect();
            let _parts = (answer.error_code(), answer.set_type(), answer.family());
        }
    }
}

#[test]
fn interface_names_that_the_kernel_refuses_are_refused() {
    for bad in [
        "",
        ".",
        "..",
        "a b",
        "a/b",
        "a:b",
        "sixteen-letters-",
        "tab\t",
    ] {
        assert_eq!(IfName::new(bad), None, "{bad:?}");
    }
    assert_eq!(ifname("mgy0123456789ab").as_str(), "mgy0123456789ab");
}

#[test]
fn the_whole_space_is_stored_as_two_halves() {
    let stored = |text: &str| {
        storable(net(text))
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(stored("0.0.0.0/0"), ["0.0.0.0/1", "128.0.0.0/1"]);
    assert_eq!(stored("::/0"), ["::/1", "8000::/1"]);
    assert_eq!(stored("10.1.2.3/8"), ["10.0.0.0/8"]);
}

mod tracker {
    use super::*;

    fn entry(n: u8) -> Entry {
        Entry::Net(IpAddr::from([10, 0, 0, n]).into())
    }

    fn entries(range: std::ops::Range<u8>) -> Vec<Entry> {
        range.map(entry).collect()
    }

    #[test]
    fn only_differences_are_handed_out() {
        let mut tracker = SetTracker::default();
        tracker.replace(entries(0..4));
        assert_eq!(tracker.missing(), entries(0..4));
        tracker.done(&entries(0..4), true);
        assert!(tracker.in_sync());
        tracker.replace(entries(2..6));
        assert_eq!(
            (tracker.missing(), tracker.surplus(false)),
            (entries(4..6), entries(0..2))
        );
        // Changed back before anything was done.
        tracker.replace(entries(0..4));
        assert!(tracker.missing().is_empty() && tracker.surplus(true).is_empty());
    }

    #[test]
    fn what_was_only_found_goes_only_when_asked() {
        let mut tracker = SetTracker::default();
        tracker.replace(entries(0..2));
        assert_eq!(tracker.adopt(entries(1..4)), 3);
        assert_eq!(tracker.missing(), entries(0..1));
        assert_eq!(
            (tracker.surplus(false), tracker.surplus(true)),
            (vec![], entries(2..4))
        );
        assert!(tracker.displace(&entry(3)) && !tracker.displace(&entry(1)));
        assert_eq!(tracker.surplus(false), entries(3..4));
    }

    #[test]
    fn drift_is_counted_against_what_was_done() {
        let mut tracker = SetTracker::default();
        tracker.replace(entries(0..3));
        tracker.done(&entries(0..3), true);
        assert_eq!(tracker.adopt(entries(0..3)), 0);
        assert_eq!(tracker.adopt(entries(1..5)), 3, "one gone, two new");
        assert_eq!(
            (tracker.missing(), tracker.surplus(true)),
            (entries(0..1), entries(3..5))
        );
        assert_eq!(tracker.len(), 3);
    }
}
