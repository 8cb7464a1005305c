//! A service manager, as far as it keeps descriptors for a daemon: what systemd does with `FDSTORE=1`,
//! `FDSTOREREMOVE=1` and `BARRIER=1` (sd_notify(3)), and how it passes them on (sd_listen_fds(3)).

use std::fs::File;
use std::io::{IoSliceMut, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The lowest number for a descriptor on its way to the next process, before it gets its own.
const ASIDE: RawFd = 200;

/// What is kept, with its names.
type Stored = Arc<Mutex<Vec<(String, OwnedFd)>>>;

/// A manager that listens until its socket's file is removed with the lab.
#[derive(Debug)]
pub struct Manager {
    path: PathBuf,
    stored: Stored,
}

impl Manager {
    /// Starts one whose socket is in `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let path = dir.join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        let stored = Stored::default();
        let shared = Arc::clone(&stored);
        thread::spawn(move || while hear(&socket, &shared).is_ok() {});
        Ok(Self { path, stored })
    }

    /// The value of `NOTIFY_SOCKET`.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// How many descriptors it keeps.
    pub fn kept(&self) -> usize {
        self.lock().len()
    }

    /// Closes what it keeps.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// Writes something else over the state.
    pub fn spoil(&self) -> Result<()> {
        for (_, descriptor) in self.lock().iter() {
            let mut file = File::from(descriptor.try_clone()?);
            if file.metadata()?.is_file() {
                file.rewind()?;
                file.write_all(b"nothing that anyone has left")?;
                return Ok(());
            }
        }
        anyhow::bail!("there is no state")
    }

    /// `program` with all that is kept, which stays kept until the program says otherwise. What is returned has to
    /// live until it runs.
    pub fn pass_to(&self, program: &Command) -> Result<(Command, Vec<OwnedFd>)> {
        let mut aside = Vec::new();
        let mut script = String::new();
        let mut names = Vec::new();
        for (at, (name, descriptor)) in self.lock().iter().enumerate() {
            let number = fcntl(descriptor, FcntlArg::F_DUPFD(ASIDE))?;
            aside.push(owned(number));
            script += &format!("exec {}<&{number} {number}<&-; ", at + 3);
            names.push(name.clone());
        }
        if !names.is_empty() {
            let (count, names) = (names.len(), names.join(":"));
            script +=
                &format!("export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES='{names}'; ");
        }
        let mut command = Command::new("bash");
        command.arg("-c").arg(script + "exec \"$0\" \"$@\"");
        command.arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            command.env(name, value.context("an environment that is only added to")?);
        }
        command.env("NOTIFY_SOCKET", &self.path);
        Ok((command, aside))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, OwnedFd)>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One datagram.
fn hear(socket: &UnixDatagram, stored: &Stored) -> Result<()> {
    let mut text = [0; 4096];
    let mut control = nix::cmsg_space!([RawFd; 253]);
    let mut buffers = [IoSliceMut::new(&mut text)];
    let number = socket.as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(number, &mut buffers, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            descriptors.extend(numbers.into_iter().map(owned));
        }
    }
    let len = message.bytes;
    let text = std::str::from_utf8(text.get(..len).unwrap_or_default())?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let name = field("FDNAME=").unwrap_or("stored");
    ensure!(!name.contains(':'), "{name} is no name");
    let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
    if field("FDSTOREREMOVE=") == Some("1") {
        stored.retain(|(kept, _)| kept != name);
    }
    if field("FDSTORE=") == Some("1") {
        // The newest first, as systemd has it.
        let named = descriptors.drain(..).map(|d| (name.to_owned(), d));
        stored.splice(0..0, named);
    }
    // A barrier is passed: its descriptor closes.
    Ok(())
}

#[expect(unsafe_code, reason = "the kernel has just made the descriptor for us")]
fn owned(number: RawFd) -> OwnedFd {
    // SAFETY: the number is from the kernel, which has made the descriptor for this caller alone.
    unsafe { OwnedFd::from_raw_fd(number) }
}
