//! Descriptors that are open when the process starts.
#![expect(
    unsafe_code,
    reason = "an open descriptor that is known by its number has no safe owner"
)]

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Owns the descriptors with these numbers that are open; none of them is passed on by accident. To be called
/// before anything is opened.
pub(super) fn claim(numbers: &[RawFd]) -> Vec<OwnedFd> {
    // Input and outputs have owners. What is named twice has one.
    let numbers: BTreeSet<RawFd> = numbers.iter().copied().filter(|n| *n > 2).collect();
    let open = |number: &RawFd| {
        // SAFETY: the number is not -1, and is only asked about; if it is not open the kernel says so.
        let descriptor = unsafe { BorrowedFd::borrow_raw(*number) };
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_ok()
    };
    let numbers = numbers.into_iter().filter(open);
    // SAFETY: it is open, nothing was opened by this process yet, and each number is taken once, so that nobody
    // else owns it.
    numbers
        .map(|n| unsafe { OwnedFd::from_raw_fd(n) })
        .collect()
}
