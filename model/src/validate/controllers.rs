//! Settings of controllers, and requests for the state of a host.

use crate::calico_node_status::CalicoNodeStatusSpec;
use crate::kube_controllers_configuration::{
    HostEndpointTemplate, KubeControllersConfigurationSpec,
};
use crate::schema::is_regex;
use crate::validate::{Findings, is_set, metadata};

/// Longest period of a report: a day.
const LONGEST_PERIOD_SECS: u32 = 86_400;

pub(super) fn check_node_status(spec: &CalicoNodeStatusSpec, findings: &mut Findings<'_>) {
    if spec.node.is_empty() {
        findings.missing("spec.node", "the name of a host");
    }
    for (i, class) in spec.classes.iter().enumerate() {
        if spec.classes[..i].contains(class) {
            let path = format!("spec.classes[{i}]");
            findings.text(&path, class.as_str(), "each class once");
        }
    }
    let allowed = || format!("0 to {LONGEST_PERIOD_SECS}");
    match spec.update_period_seconds {
        None => findings.missing("spec.updatePeriodSeconds", allowed()),
        Some(period) if period > LONGEST_PERIOD_SECS => {
            findings.other("spec.updatePeriodSeconds", period, allowed());
        }
        Some(_) => {}
    }
}

pub(super) fn check_controllers(
    spec: &KubeControllersConfigurationSpec,
    findings: &mut Findings<'_>,
) {
    let node = spec.controllers.node.as_ref();
    let Some(auto) = node.and_then(|node| node.host_endpoint.as_ref()) else {
        return;
    };
    for (i, template) in auto.templates.iter().enumerate() {
        let path = format!("spec.controllers.node.hostEndpoint.templates[{i}]");
        let same = |other: &HostEndpointTemplate| other.generate_name == template.generate_name;
        if auto.templates[..i].iter().any(same) {
            let name = &template.generate_name;
            findings.text(&format!("{path}.generateName"), name, "each name once");
        }
        check_template(&path, template, findings);
    }
}

fn check_template(path: &str, template: &HostEndpointTemplate, findings: &mut Findings<'_>) {
    if template.generate_name.is_empty() {
        let path = format!("{path}.generateName");
        findings.missing(&path, "the end of the name of the endpoints");
    } else if template.generate_name.len() > 253 {
        let found = format!("{} characters", template.generate_name.len());
        findings.other(&format!("{path}.generateName"), found, "at most 253");
    }
    let pattern = template.interface_pattern.as_deref();
    if template.interface_cidrs.is_empty() && !is_set(pattern) {
        findings.missing(path, "at least one of interfaceCIDRs, interfacePattern");
    }
    if let Some(text) = pattern
        && !is_regex(text)
    {
        let path = format!("{path}.interfacePattern");
        findings.text(&path, text, "a regular expression");
    }
    metadata::check_labels(&format!("{path}.labels"), &template.labels, findings);
    let annotations = format!("{path}.annotations");
    metadata::check_annotations(&annotations, &template.annotations, findings);
    findings.selector(
        &format!("{path}.nodeSelector"),
        template.node_selector.as_deref(),
    );
}
