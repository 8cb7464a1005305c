//! The thread's place among others that want the processor.
#![expect(
    unsafe_code,
    reason = "the policy of the scheduler has no safe wrapper"
)]

use std::io;

/// The lowest of the real-time priorities: ahead of whatever is ordinary, behind what its operator
/// has found urgent.
const PRIORITY: libc::c_int = 1;

/// Puts the calling thread ahead of all that is not real-time (sched(7)): a host that is busy must
/// not look like one that is dead. Needs CAP_SYS_NICE, or RLIMIT_RTPRIO of 1.
pub(super) fn ahead_of_others() -> io::Result<()> {
    // SAFETY: integers all of them, and more of them with musl than with glibc; 0 is a value of each.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = PRIORITY;
    // SAFETY: `param` outlives the call, which only reads it; 0 is the calling thread.
    let status = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const param) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
