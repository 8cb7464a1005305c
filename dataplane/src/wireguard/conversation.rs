//! Asking and telling the kernel about devices.

use super::wire;
use super::{DeviceChange, DeviceState, PeerChange, PublicKey};
use crate::netlink::{Batch, NetlinkError, RequestError, Socket};

/// Messages in one `send`.
const BATCH: usize = 64;

/// A conversation with the driver, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Wireguard {
    socket: Socket,
    /// What the kernel has numbered the driver's messages with.
    family: u16,
}

impl Wireguard {
    /// Asking for the driver makes the kernel load it.
    ///
    /// # Errors
    /// [`RequestError::is_missing`] where the kernel has no such driver.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::generic()?;
        let mut batch = Batch::new();
        wire::ask_family(&mut batch);
        let mut outcome = socket.transact(&mut batch)?;
        if let Some((_, error)) = outcome.errors.pop() {
            return Err(error.into());
        }
        let family = outcome
            .answers
            .iter()
            .find_map(|a| wire::family_from(&a.payload));
        let unnamed = RequestError {
            errno: libc::ENOENT,
            text: None,
        };
        let family = family.ok_or(unnamed)?;
        Ok(Self { socket, family })
    }

    /// Reads a device.
    ///
    /// # Errors
    /// Also where there is none of this name, or one of another kind.
    pub fn read(&mut self, name: &str) -> Result<DeviceState, NetlinkError> {
        let mut device = DeviceState::default();
        let header = wire::get_device_header();
        let messages = self.socket.dump(
            self.family,
            &header,
            |m| wire::device_name(m, name),
            |_, message| Some(message.to_vec()),
        )?;
        for message in messages {
            wire::merge(&mut device, &message);
        }
        Ok(device)
    }

    pub(crate) fn set_device(
        &mut self,
        name: &str,
        change: &DeviceChange,
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        wire::set_device(&mut batch, self.family, name, change);
        self.send(&mut batch)
    }

    /// In this order.
    pub(crate) fn set_peers(
        &mut self,
        name: &str,
        changes: &[(PublicKey, PeerChange)],
    ) -> Result<(), NetlinkError> {
        for part in changes.chunks(BATCH) {
            let mut batch = Batch::new();
            for (key, change) in part {
                wire::set_peer(&mut batch, self.family, name, key, change);
            }
            self.send(&mut batch)?;
        }
        Ok(())
    }

    fn send(&mut self, batch: &mut Batch) -> Result<(), NetlinkError> {
        let outcome = self.socket.transact(batch)?;
        match outcome.errors.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }
}
