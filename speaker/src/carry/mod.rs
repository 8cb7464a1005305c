//! BGP sessions go on over a planned restart: the process that ends leaves its connections, and what
//! belongs to them, to the one that follows.
//!
//! Two ways lead from one to the other. On a reload the process stays and its image is replaced
//! (`exec`): descriptors stay open, and the environment names them. On a stop the service manager
//! keeps them (`sd_pid_notify_with_fds(3)`) and hands them to the process that it starts next
//! (`sd_listen_fds(3)`), if there is one; on a mere stop it closes them. Where neither is there, the
//! connections close, and graceful restart does what it can.
//!
//! The state is a file in memory. Who takes it empties it, so that it is taken once, whoever else
//! may still hold it: a process that crashed after it had taken over must not be followed by one
//! that takes over from before.

mod claim;
mod manager;
mod outcome;
mod store;

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::{AsRawFd, OwnedFd},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::{SFlag, fstat},
    },
};
use tracing::{info, warn};

pub use manager::ServiceManager;
pub use outcome::Outcome;
pub use store::keep;

use crate::Handover;

/// Names the descriptors for the service manager.
const NAME: &str = "margay-handover";

/// Names the descriptors for the next image of this process: `PID:FD,FD,...`.
const VARIABLE: &str = "MARGAY_HANDOVER";

/// What the service manager says of the descriptors that it hands over.
const MANAGERS: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
];

/// What is left does not reach the next process: its sessions start anew. Not worth a retry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarryError {
    #[error("there is no service manager")]
    NoManager,
    #[error("the service manager cannot be told: {0}")]
    Untold(#[source] io::Error),
    #[error("the service manager does not answer")]
    Silent,
    #[error("there is no file with a state")]
    NoState,
    #[error("cannot {what} the state: {source}")]
    File {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl CarryError {
    fn file<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::File {
            what,
            source: source.into(),
        }
    }
}

/// Descriptors that this process found open and that are meant for it.
#[derive(Debug, Default)]
pub struct Found {
    descriptors: Vec<OwnedFd>,
    /// They are with the service manager as well.
    stored: bool,
}

/// Takes the descriptors that another process has left for this one. To be called before anything is
/// opened.
pub fn find() -> Found {
    let variable = |name: &str| std::env::var(name).ok();
    let own = std::process::id();
    if let Some(numbers) = variable(VARIABLE).and_then(|text| of_image(&text, own)) {
        return Found {
            descriptors: claim::claim(&numbers),
            stored: false,
        };
    }
    let numbers = of_manager(own, MANAGERS.map(variable));
    Found {
        descriptors: claim::claim(&numbers),
        stored: !numbers.is_empty(),
    }
}

/// The descriptors in `PID:FD,FD,...`, if they are for process `own`.
fn of_image(text: &str, own: u32) -> Option<Vec<i32>> {
    let (pid, numbers) = text.split_once(':')?;
    let numbers = || numbers.split(',').map(|n| n.parse().ok()).collect();
    (pid.parse() == Ok(own)).then(numbers)?
}

/// Those of ours that a service manager passes to process `own`, which start at 3.
fn of_manager(own: u32, [pid, count, names, _]: [Option<String>; 4]) -> Vec<i32> {
    let (Some(pid), Some(count), Some(names)) = (pid, count, names) else {
        return Vec::new();
    };
    let count = count.parse().unwrap_or(0);
    if pid.parse() != Ok(own) {
        return Vec::new();
    }
    let ours = |(number, name): (i32, &str)| (name == NAME).then_some(number);
    (3..)
        .zip(names.split(':'))
        .take(count)
        .filter_map(ours)
        .collect()
}

impl Found {
    /// What the process before has left, or why there is nothing.
    ///
    /// # Errors
    /// [`Outcome`] says which; the log has it already where somebody is to know.
    pub fn open(self) -> Result<Handover, Outcome> {
        if self.stored {
            // From here on a connection that we close is closed.
            store::forget();
        }
        if self.descriptors.is_empty() {
            return Err(Outcome::NothingLeft);
        }
        let (files, sockets): (Vec<_>, Vec<_>) = self.descriptors.into_iter().partition(is_file);
        let read = match files.into_iter().next() {
            Some(file) => take(file.into()),
            None => Err(CarryError::NoState),
        };
        match read {
            Ok(state) if state.is_empty() => {
                info!("sessions of a process before were taken over by another one already");
                Err(Outcome::TakenBefore)
            }
            Ok(state) => Ok(Handover { state, sockets }),
            Err(error) => {
                warn!(
                    %error,
                    "no state of the process before, its sessions start anew"
                );
                Err(Outcome::Unreadable)
            }
        }
    }
}

fn is_file(descriptor: &OwnedFd) -> bool {
    fstat(descriptor)
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG)
}

/// Reads the state, and empties the file.
fn take(mut file: File) -> Result<Vec<u8>, CarryError> {
    let mut state = Vec::new();
    file.rewind().map_err(CarryError::file("find"))?;
    file.read_to_end(&mut state)
        .map_err(CarryError::file("read"))?;
    file.set_len(0).map_err(CarryError::file("empty"))?;
    Ok(state)
}

/// All that is left as descriptors: the state as a file in memory, and the sockets.
fn descriptors(handover: Handover) -> Result<Vec<OwnedFd>, CarryError> {
    let memory =
        memfd_create(NAME, MFdFlags::MFD_CLOEXEC).map_err(CarryError::file("make a file for"))?;
    let mut file = File::from(memory);
    file.write_all(&handover.state)
        .map_err(CarryError::file("write"))?;
    let mut all = handover.sockets;
    all.push(file.into());
    Ok(all)
}

/// What the next image of this process finds by [`find`]: `command` is told of it, and it stays open.
/// Without it the connections close.
#[derive(Debug)]
pub struct ForImage(Vec<OwnedFd>);

impl ForImage {
    /// Nothing is left, or cannot be.
    pub fn new(handover: Option<Handover>) -> Self {
        let all = handover.map(descriptors).transpose();
        Self(all.map(Option::unwrap_or_default).unwrap_or_else(|error| {
            warn!(%error, "sessions cannot be handed over");
            Vec::new()
        }))
    }

    /// Replaces this process by a program, with the same arguments. Returns only when that fails.
    pub fn execute(&self, program: &Path) -> io::Error {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1));
        self.tell(&mut command);
        command.exec()
    }

    /// Adds to the environment of `command`, which is to replace this process.
    fn tell(&self, command: &mut Command) {
        // What the manager said was for this image.
        for name in MANAGERS.into_iter().chain([VARIABLE]) {
            command.env_remove(name);
        }
        let stays = |d: &&OwnedFd| fcntl(d, FcntlArg::F_SETFD(FdFlag::empty())).is_ok();
        let numbers = self
            .0
            .iter()
            .filter(stays)
            .map(|d| d.as_raw_fd().to_string());
        let numbers: Vec<String> = numbers.collect();
        if !numbers.is_empty() {
            let text = format!("{}:{}", std::process::id(), numbers.join(","));
            command.env(VARIABLE, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_found_only_if_they_are_for_this_process() {
        assert_eq!(of_image("7:9,12", 7), Some(vec![9, 12]));
        assert_eq!(of_image("8:9,12", 7), None);
        assert_eq!(of_image("7:9,x", 7), None);
        let told = |pid: &str, count: &str, names: &str| {
            of_manager(
                7,
                [
                    Some(pid.into()),
                    Some(count.into()),
                    Some(names.into()),
                    None,
                ],
            )
        };
        assert_eq!(
            told("7", "3", "margay-handover:web:margay-handover"),
            [3, 5]
        );
        assert_eq!(told("7", "1", "margay-handover:margay-handover"), [3]);
        assert_eq!(told("6", "1", "margay-handover"), [0; 0]);
        assert_eq!(told("7", "many", "margay-handover"), [0; 0]);
        assert_eq!(of_manager(7, [const { None }; 4]), [0; 0]);
    }

    #[test]
    fn the_state_is_taken_once() {
        let handover = Handover {
            state: b"state".to_vec(),
            sockets: Vec::new(),
        };
        let all = descriptors(handover).unwrap();
        let copies: Vec<OwnedFd> = all.iter().map(|d| d.try_clone().unwrap()).collect();
        let found = |descriptors| Found {
            descriptors,
            stored: false,
        };
        assert_eq!(found(all).open().unwrap().state, b"state");
        assert_eq!(found(copies).open().unwrap_err(), Outcome::TakenBefore);
        let nothing = found(Vec::new()).open();
        assert_eq!(nothing.unwrap_err(), Outcome::NothingLeft);
    }

    #[test]
    fn sockets_without_a_state_are_closed() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let found = Found {
            descriptors: vec![socket.into()],
            stored: false,
        };
        assert_eq!(found.open().unwrap_err(), Outcome::Unreadable);
        assert!(std::net::TcpStream::connect(at).is_err());
    }
}
