//! Free TCP ports on the loopback address.

use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Below those that the kernel gives to outgoing connections: one of them would take a port between the look and its
/// use.
const FIRST: u16 = 10_000;
const COUNT: u32 = 22_000;

/// Apart from each other for processes that start one after the other.
const STRIDE: u32 = 997;

/// A port that nothing listens on, and that no other call of this process gave.
pub fn free_port() -> Result<u16> {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| (process::id() % COUNT * STRIDE).into());
    let free = (0..COUNT).find_map(|_| {
        let number = next.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + u16::try_from(number).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(port)
    });
    free.context("no port is free")
}
