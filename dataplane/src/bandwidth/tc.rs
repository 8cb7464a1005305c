//! Queues as the kernel's traffic control has them: token buckets, and what leads packets into another device's.

use super::{Limit, Peak};
use crate::netlink::{Attributes, Batch, NetlinkError, Socket, u32_from};

/// How long a packet may wait in a queue, as the reference plugin has it.
const LATENCY_MS: u64 = 25;
/// What a queue takes whatever the rate: a packet of the usual size always fits.
const SMALLEST_QUEUE: u64 = 64 * 1024;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_PRATE64: u16 = 5;
const TCA_TBF_BURST: u16 = 6;
const TCA_TBF_PBURST: u16 = 7;
/// Where the two rates are in `struct tc_tbf_qopt`.
const RATE: usize = 8;
const PEAK_RATE: usize = 20;
/// Without it the kernel wants a table of the times that packets take.
const TC_LINKLAYER_ETHERNET: u8 = 1;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_0000;
/// `struct tcmsg`.
const TCMSG_LEN: usize = 20;

const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: i32 = 4;
const TCA_EGRESS_REDIR: i32 = 1;

pub(super) fn send(socket: &mut Socket, batch: &mut Batch) -> Result<(), NetlinkError> {
    let outcome = socket.transact(batch)?;
    match outcome.errors.into_iter().next() {
        None => Ok(()),
        Some((_, error)) => Err(error.into()),
    }
}

fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG_LEN] {
    let mut bytes = [0; TCMSG_LEN];
    for (place, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        bytes[place..place + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

pub(super) fn push_bucket(batch: &mut Batch, index: u32, limit: Limit, largest: u32) {
    let limit = Limit {
        burst: limit.burst.max(largest),
        peak: limit.peak.map(|peak| Peak {
            burst: peak.burst.max(largest),
            ..peak
        }),
        ..limit
    };
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let header = tcmsg(index, 0, TC_H_ROOT, 0);
    batch.push(libc::RTM_NEWQDISC, flags, &header, |m| {
        m.string(TCA_KIND, "tbf");
        m.nest(TCA_OPTIONS, &[], |m| {
            m.bytes(TCA_TBF_PARMS, &tbf_parameters(limit));
            if limit.rate > u64::from(u32::MAX) {
                m.bytes(TCA_TBF_RATE64, &limit.rate.to_ne_bytes());
            }
            m.u32(TCA_TBF_BURST, limit.burst);
            if let Some(peak) = limit.peak {
                if peak.rate > u64::from(u32::MAX) {
                    m.bytes(TCA_TBF_PRATE64, &peak.rate.to_ne_bytes());
                }
                m.u32(TCA_TBF_PBURST, peak.burst);
            }
        });
    });
}

/// `struct tc_tbf_qopt`: two `struct tc_ratespec` of 12 bytes, then limit, buffer and MTU.
fn tbf_parameters(limit: Limit) -> [u8; 36] {
    let queue = limit.rate.saturating_mul(LATENCY_MS) / 1000;
    let queue = queue.max(SMALLEST_QUEUE) + u64::from(limit.burst);
    let mut bytes = [0; 36];
    let rates = [
        Some((RATE, limit.rate)),
        limit.peak.map(|peak| (PEAK_RATE, peak.rate)),
    ];
    for (place, rate) in rates.into_iter().flatten() {
        let rate = u32::try_from(rate).unwrap_or(u32::MAX);
        bytes[place - RATE + 1] = TC_LINKLAYER_ETHERNET;
        bytes[place..place + 4].copy_from_slice(&rate.to_ne_bytes());
    }
    let queue = u32::try_from(queue).unwrap_or(u32::MAX);
    bytes[24..28].copy_from_slice(&queue.to_ne_bytes());
    bytes
}

/// Everything that comes in, whatever it is.
pub(super) fn push_redirection(batch: &mut Batch, index: u32, ifb: u32) {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let header = tcmsg(index, INGRESS, TC_H_INGRESS, 0);
    batch.push(libc::RTM_NEWQDISC, flags, &header, |m| {
        m.string(TCA_KIND, "ingress");
    });
    // The priority, then the protocol in network order.
    let info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let header = tcmsg(index, 0, INGRESS, info);
    batch.push(libc::RTM_NEWTFILTER, flags, &header, |m| {
        m.string(TCA_KIND, "u32");
        m.nest(TCA_OPTIONS, &[], |m| {
            m.bytes(TCA_U32_SEL, &match_all());
            m.nest(TCA_U32_ACT, &[], |m| {
                m.nest(1, &[], |m| {
                    m.string(TCA_ACT_KIND, "mirred");
                    m.nest(TCA_ACT_OPTIONS, &[], |m| {
                        m.bytes(TCA_MIRRED_PARMS, &redirect_to(ifb));
                    });
                });
            });
        });
    });
}

/// `struct tc_u32_sel` with one key that masks nothing.
const fn match_all() -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = TC_U32_TERMINAL;
    bytes[2] = 1;
    bytes
}

/// `struct tc_mirred`: index, capabilities, action, two counts, the kind, the device.
fn redirect_to(index: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[8..12].copy_from_slice(&TC_ACT_STOLEN.to_ne_bytes());
    bytes[20..24].copy_from_slice(&TCA_EGRESS_REDIR.to_ne_bytes());
    bytes[24..28].copy_from_slice(&index.to_ne_bytes());
    bytes
}

/// The rate of the token bucket at the root of an interface, and that of its bursts or 0.
pub(super) fn rates_of(
    socket: &mut Socket,
    index: u32,
) -> Result<Option<(u64, u64)>, NetlinkError> {
    let header = tcmsg(index, 0, 0, 0);
    let read = |_, message: &[u8]| bucket_rates(message, index);
    let rates = socket.dump(libc::RTM_GETQDISC, &header, |_| {}, read)?;
    Ok(rates.into_iter().next())
}

fn bucket_rates(message: &[u8], index: u32) -> Option<(u64, u64)> {
    // Older kernels dump the queues of all interfaces.
    let is_root = word(message, 4)? == index && word(message, 12)? == TC_H_ROOT;
    let attributes = Attributes::after(message, TCMSG_LEN);
    if !is_root || attributes.find(TCA_KIND)? != b"tbf\0" {
        return None;
    }
    let options = Attributes::nested(attributes.find(TCA_OPTIONS)?);
    let rate = |large, place| match options.find(large) {
        Some(rate) => Some(u64::from_ne_bytes(rate.try_into().ok()?)),
        None => word(options.find(TCA_TBF_PARMS)?, place).map(u64::from),
    };
    Some((
        rate(TCA_TBF_RATE64, RATE)?,
        rate(TCA_TBF_PRATE64, PEAK_RATE)?,
    ))
}

/// Whether anything takes what comes in on the interface elsewhere.
pub(super) fn is_redirected(socket: &mut Socket, index: u32) -> Result<bool, NetlinkError> {
    let header = tcmsg(index, 0, INGRESS, 0);
    let read = |_, message: &[u8]| {
        let kind = Attributes::after(message, TCMSG_LEN).find(TCA_KIND)?;
        (kind == b"u32\0").then_some(())
    };
    let filters = socket.dump(libc::RTM_GETTFILTER, &header, |_| {}, read)?;
    Ok(!filters.is_empty())
}

fn word(bytes: &[u8], place: usize) -> Option<u32> {
    u32_from(bytes.get(place..)?)
}

/// What is there may lead to a device that is gone.
pub(super) fn redirect_anew(socket: &mut Socket, index: u32, ifb: u32) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    let header = tcmsg(index, INGRESS, TC_H_INGRESS, 0);
    let gone = batch.push(libc::RTM_DELQDISC, 0, &header, |_| {});
    push_redirection(&mut batch, index, ifb);
    let outcome = socket.transact(&mut batch)?;
    // That there was none is said in several ways.
    match outcome.errors.into_iter().find(|(place, _)| *place != gone) {
        None => Ok(()),
        Some((_, error)) => Err(error.into()),
    }
}
