//! What a host end was made as, written on it as its alias, so that an agent without memory knows what to put right.
//!
//! `margay mgy0123456789a mtu=1450 path to=125000/10000 netns=/run/netns/x`: words, in whatever order but for the first
//! two, and the last, a path, to the end. The kernel takes 255 bytes.

use std::path::PathBuf;

use crate::bandwidth::{Bandwidth, Limit, Peak};
use crate::link::Link;
use crate::netlink::{NetlinkError, Socket, ifinfomsg};

/// First word of what is ours.
const OURS: &str = "margay";
/// `IFALIASZ` of linux/if.h, without the zero at the end.
const MOST: usize = 255;
/// The MTU is that of the path to other hosts.
const PATH: &str = "path";
/// Sources that are not the container's own are no business of reverse path filtering.
const ANY_SOURCE: &str = "any-source";

/// What a host end was made as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its name.
    pub(crate) ifname: String,
    /// MTU of both ends.
    pub(crate) mtu: u32,
    /// Whether that is the path's, and goes with it.
    pub(crate) follows: bool,
    /// Whether reverse path filtering is off.
    pub(crate) any_source: bool,
    /// Its queues.
    pub(crate) bandwidth: Bandwidth,
    /// The file of the container's namespace; none where the other end has not been moved, or the path is too long.
    pub(crate) netns: Option<PathBuf>,
}

impl Record {
    /// What is written on this link, if it is ours.
    pub(crate) fn of(link: &Link) -> Option<Self> {
        if link.kind != "veth" {
            return None;
        }
        Self::parse(&link.alias)
    }

    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(OURS)?.strip_prefix(' ')?;
        let (rest, netns) = match rest.split_once(" netns=") {
            Some((rest, path)) => (rest, Some(PathBuf::from(path))),
            None => (rest, None),
        };
        let mut words = rest.split(' ');
        let mut record = Self {
            ifname: words.next()?.to_owned(),
            netns,
            ..Self::default()
        };
        for word in words {
            match word.split_once('=') {
                Some(("mtu", bytes)) => record.mtu = bytes.parse().ok()?,
                Some(("to", limit)) => record.bandwidth.to_container = Some(parse_limit(limit)?),
                Some(("from", limit)) => {
                    record.bandwidth.from_container = Some(parse_limit(limit)?)
                }
                None if word == PATH => record.follows = true,
                None if word == ANY_SOURCE => record.any_source = true,
                // Of a younger agent.
                _ => {}
            }
        }
        (record.mtu > 0).then_some(record)
    }

    /// As it is written; without the path where that is too long, or no text.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{OURS} {} mtu={}", self.ifname, self.mtu);
        for (is, word) in [(self.follows, PATH), (self.any_source, ANY_SOURCE)] {
            if is {
                text.push(' ');
                text.push_str(word);
            }
        }
        for (way, limit) in [
            ("to", self.bandwidth.to_container),
            ("from", self.bandwidth.from_container),
        ] {
            if let Some(limit) = limit {
                text.push_str(&format!(" {way}={}", limit_text(limit)));
            }
        }
        if let Some(path) = self.netns.as_deref().and_then(|path| path.to_str()) {
            let whole = format!("{text} netns={path}");
            if whole.len() <= MOST {
                return whole;
            }
        }
        text
    }

    /// Writes it on its link.
    pub(crate) fn write(&self, socket: &mut Socket, index: u32) -> Result<(), NetlinkError> {
        let header = ifinfomsg(index, 0, 0);
        let written = socket.request(libc::RTM_SETLINK, 0, &header, |m| {
            m.bytes(libc::IFLA_IFALIAS, self.text().as_bytes());
        });
        written.map(drop)
    }
}

fn parse_limit(text: &str) -> Option<Limit> {
    let mut numbers = text.split('/');
    let rate = numbers.next()?.parse().ok().filter(|rate| *rate > 0)?;
    let burst = numbers.next()?.parse().ok()?;
    let peak = match numbers.next() {
        Some(rate) => Some(Peak {
            rate: rate.parse().ok()?,
            burst: numbers.next()?.parse().ok()?,
        }),
        None => None,
    };
    Some(Limit { rate, burst, peak })
}

fn limit_text(limit: Limit) -> String {
    let Limit { rate, burst, peak } = limit;
    match peak {
        Some(peak) => format!("{rate}/{burst}/{}/{}", peak.rate, peak.burst),
        None => format!("{rate}/{burst}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Record {
        Record {
            ifname: "mgy0123456789a".into(),
            mtu: 1450,
            follows: true,
            any_source: true,
            bandwidth: Bandwidth {
                to_container: Some(Limit {
                    rate: 125_000,
                    burst: 10_000,
                    peak: None,
                }),
                from_container: Some(Limit {
                    rate: u64::MAX,
                    burst: u32::MAX,
                    peak: Some(Peak {
                        rate: u64::MAX,
                        burst: u32::MAX,
                    }),
                }),
            },
            netns: Some("/run/netns/a b".into()),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let plain = Record {
            ifname: "mgy1".into(),
            mtu: 65535,
            ..Record::default()
        };
        for record in [full(), plain] {
            let text = record.text();
            assert!(text.len() <= MOST, "{text}");
            assert_eq!(Record::parse(&text), Some(record), "{text}");
        }
        assert_eq!(
            full().text(),
            "margay mgy0123456789a mtu=1450 path any-source to=125000/10000 \
             from=18446744073709551615/4294967295/18446744073709551615/4294967295 netns=/run/netns/a b"
        );
    }

    #[test]
    fn a_path_that_is_too_long_is_left_out_and_the_rest_stays() {
        let long = Record {
            netns: Some(format!("/run/netns/{}", "x".repeat(MOST)).into()),
            ..full()
        };
        let without = Record {
            netns: None,
            ..full()
        };
        assert_eq!(Record::parse(&long.text()), Some(without));
    }

    #[test]
    fn texts_of_others_are_no_records_and_words_of_younger_agents_are_skipped() {
        for text in [
            "",
            "margay",
            "margay ",
            "margay mgy1",
            "margayx mgy1 mtu=1500",
            "uplink to the rack",
            "margay mgy1 mtu=",
            "margay mgy1 mtu=0",
            "margay mgy1 mtu=1500 to=0/1",
            "margay mgy1 mtu=1500 from=1/2/3",
            "margay mgy1 mtu=1500 to=x/y",
        ] {
            assert_eq!(Record::parse(text), None, "{text:?}");
        }
        let younger = Record::parse("margay mgy1 colour=red mtu=1500 path new").unwrap();
        assert_eq!((younger.mtu, younger.follows), (1500, true));
    }
}
