//! What the agent says of itself, its datastore and the kernel.

use margay_api::status::NodeStatus;

use super::{Finding, Severity};
use crate::verbs::node::period;
use crate::verbs::version::VERSION;

/// Nobody answers.
pub(super) fn unreachable(error: &str) -> Finding {
    Finding::new(
        Severity::Broken,
        "The agent of this host does not answer",
        format!(
            "{error}. Containers keep their network, and none can be attached; neighbours forget the routes \
             when their graceful restart is over."
        ),
        "systemctl status margayd; journalctl -u margayd -n 50; with a socket elsewhere: --socket PATH",
    )
}

pub(super) fn findings(status: &NodeStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let store = &status.datastore;
    if !store.connected {
        let detail = match store.detail.is_empty() {
            true => "no answer yet",
            false => &store.detail,
        };
        findings.push(Finding::new(
            Severity::Broken,
            format!(
                "The agent has no connection to its datastore ({}) for {}",
                store.driver,
                period(store.since_secs)
            ),
            format!(
                "{detail}. Traffic, policy and sessions stay as they are; containers cannot be attached."
            ),
            "etcdctl endpoint health --endpoints ..., with the addresses and certificates of \
             /etc/margay/margayd.yaml",
        ));
    }
    for failing in &status.dataplane.failing {
        findings.push(Finding::new(
            Severity::Broken,
            format!("The kernel does not have something that it should: {failing}"),
            "It is tried again and again; what policy cannot be written drops its traffic.",
            "margayctl node checksystem; journalctl -u margayd",
        ));
    }
    // What stands behind the reasons above has been told in more words.
    let told = !findings.is_empty();
    for reason in status.not_ready_reasons.iter().filter(|_| !told) {
        findings.push(Finding::new(
            Severity::Broken,
            format!("The agent is not ready: {reason}"),
            "Until then no container can be attached.",
            "wait if it was started a moment ago; else journalctl -u margayd",
        ));
    }
    if status.version != VERSION {
        findings.push(Finding::new(
            Severity::Note,
            format!(
                "The agent is version {}, this program is {VERSION}",
                status.version
            ),
            "They understand each other; what is new in one of them may be missing here.",
            "upgrade the older one, or restart an agent that was upgraded",
        ));
    }
    findings
}
