//! From the rules of a resource to a rule program and the sets that it needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_model::net::Cidr;
use margay_model::protocol::{Port, Protocol};
use margay_model::rule::{EntityRule, Icmp, Rule as RuleSpec};

use super::merge::merge;
use super::reduce::reduce;
use super::scope::{self, BadSelector};
use crate::program::{
    Action, IcmpMatch, IpVersion, Phase, PortRange, Rule, Rules, SetId, SetKind, SideMatch,
};
use crate::selector::{Selector, uid_of};

/// What a set is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetDef {
    /// Whose addresses.
    pub(super) selector: Selector,
    /// Only those with this port, and with it.
    pub(super) port: Option<NamedPort>,
}

/// A port that endpoints give a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamedPort {
    pub(super) name: String,
    pub(super) protocol: u8,
}

impl SetDef {
    fn id(&self) -> SetId {
        SetId::new(match &self.port {
            None => self.selector.uid(),
            Some(NamedPort { name, protocol }) => uid_of(
                "n:",
                &format!("{protocol},{name},{}", self.selector.canonical()),
            ),
        })
    }

    pub(super) const fn kind(&self) -> SetKind {
        match self.port {
            None => SetKind::Nets,
            Some(_) => SetKind::Ports,
        }
    }
}

/// A program with the sets it refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) rules: Arc<Rules>,
    pub(super) sets: BTreeMap<SetId, SetDef>,
}

impl Program {
    /// The same, to be looked at alone: each rule by itself, for that is what is counted.
    pub(super) fn staged(&self) -> Self {
        let mut program = self.clone();
        let rules = Arc::make_mut(&mut program.rules);
        rules.staged = true;
        for list in [&mut rules.ingress, &mut rules.egress] {
            *list = list.iter().flat_map(Rule::sources).cloned().collect();
        }
        program
    }

    /// The same, asked in another phase.
    pub(super) fn in_phase(mut self, phase: Phase) -> Self {
        Arc::make_mut(&mut self.rules).phase = phase;
        self
    }
}

/// Why a rule cannot be compiled. Nobody retries: the resource has to be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RuleError {
    #[error("{side}.{error}")]
    Selector {
        side: &'static str,
        error: BadSelector,
    },
    #[error("ipVersion: found {found}, allowed: 4 or 6")]
    IpVersion { found: u8 },
    #[error("{field}: found protocol {found}, allowed: a family that the rule's ipVersion has")]
    Family {
        field: &'static str,
        found: Protocol,
    },
    #[error("{side}.{field}: ports need protocol TCP, UDP or SCTP, found {found}")]
    Ports {
        side: &'static str,
        field: &'static str,
        found: String,
    },
    #[error("{side}.{field}: found port {port}, allowed: 1 to 65535, lower bound first")]
    PortRange {
        side: &'static str,
        field: &'static str,
        port: Port,
    },
    #[error("{field}: needs protocol ICMP or ICMPv6, found {found}")]
    IcmpProtocol { field: &'static str, found: String },
    #[error("{field}.code: found a code without a type, allowed: a code beside a type")]
    IcmpCode { field: &'static str },
    #[error("{field}: not supported, so the rule's meaning is unknown")]
    Unsupported { field: String },
    #[error(
        "{side}.services: found, but no resource tells the endpoints of a service; allowed: selector, nets and ports"
    )]
    Services { side: &'static str },
}

/// A [`RuleError`] and the rule it is in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{direction}[{index}].{error}")]
pub(super) struct CompileError {
    direction: &'static str,
    index: usize,
    error: RuleError,
}

/// Compiles the rules of both directions. `namespace` is the policy's, if it has one. Rules that no packet
/// can reach are left out, and so are the sets that only they refer to; neighbours that one rule can stand
/// for are joined.
pub(super) fn program(
    ingress: &[RuleSpec],
    egress: &[RuleSpec],
    namespace: Option<&str>,
) -> Result<Program, CompileError> {
    let mut program = whole_program(ingress, egress, namespace)?;
    let rules = Arc::make_mut(&mut program.rules);
    for list in [&mut rules.ingress, &mut rules.egress] {
        // What is joined may hide more than its parts did.
        *list = reduce(merge(reduce(std::mem::take(list))));
    }
    let used = program.rules.set_ids();
    program.sets.retain(|id, _| used.contains(id));
    Ok(program)
}

/// As [`program`], with every rule that can match at all.
pub(super) fn whole_program(
    ingress: &[RuleSpec],
    egress: &[RuleSpec],
    namespace: Option<&str>,
) -> Result<Program, CompileError> {
    let mut compiler = Compiler {
        namespace,
        sets: BTreeMap::new(),
    };
    let ingress = compiler.list("ingress", ingress)?;
    let egress = compiler.list("egress", egress)?;
    Ok(Program {
        rules: Arc::new(Rules {
            ingress,
            egress,
            ..Rules::default()
        }),
        sets: compiler.sets,
    })
}

/// The program that drops everything in both directions.
pub(super) fn deny_all() -> Program {
    let rules = || vec![Rule::any(0, Action::Deny)];
    Program {
        rules: Arc::new(Rules {
            ingress: rules(),
            egress: rules(),
            ..Rules::default()
        }),
        sets: BTreeMap::new(),
    }
}

struct Compiler<'a> {
    namespace: Option<&'a str>,
    sets: BTreeMap<SetId, SetDef>,
}

impl Compiler<'_> {
    fn list(
        &mut self,
        direction: &'static str,
        specs: &[RuleSpec],
    ) -> Result<Vec<Rule>, CompileError> {
        let mut rules = Vec::with_capacity(specs.len());
        for (index, spec) in specs.iter().enumerate() {
            let located = |error| CompileError {
                direction,
                index,
                error,
            };
            rules.extend(self.rule(index, spec).map_err(located)?);
        }
        Ok(rules)
    }

    /// One rule; `None` when no packet can match it.
    fn rule(&mut self, index: usize, spec: &RuleSpec) -> Result<Option<Rule>, RuleError> {
        refuse_unknown(spec)?;
        let Some(families) = families(spec)? else {
            return Ok(None);
        };
        // Sets of a rule that is left out must not be asked for, hence the families first.
        let icmp = icmp("icmp", spec.icmp.as_ref(), spec.protocol)?;
        let not_icmp = self::icmp("notICMP", spec.not_icmp.as_ref(), spec.protocol)?;
        Ok(Some(Rule {
            index,
            action: spec.action,
            ip_version: families,
            protocol: spec.protocol.map(Protocol::number),
            not_protocol: spec.not_protocol.map(Protocol::number),
            icmp,
            not_icmp,
            source: self.side("source", &spec.source, spec.protocol)?,
            destination: self.side("destination", &spec.destination, spec.protocol)?,
            annotations: spec
                .metadata
                .as_ref()
                .map(|m| m.annotations.clone())
                .unwrap_or_default(),
            parts: Vec::new(),
        }))
    }

    fn side(
        &mut self,
        side: &'static str,
        entity: &EntityRule,
        protocol: Option<Protocol>,
    ) -> Result<SideMatch, RuleError> {
        let bad = |error| RuleError::Selector { side, error };
        let selector = scope::entity_selector(entity, self.namespace).map_err(bad)?;
        let negated = scope::parse("notSelector", entity.not_selector.as_ref()).map_err(bad)?;
        let ports = Ports {
            side,
            protocol,
            selector: selector.clone().unwrap_or_else(Selector::all),
        };
        let (numbers, names) = self.ports(&ports, "ports", &entity.ports)?;
        let (not_numbers, not_names) = self.ports(&ports, "notPorts", &entity.not_ports)?;
        Ok(SideMatch {
            nets: entity.nets.clone(),
            not_nets: entity.not_nets.clone(),
            sets: selector.map(|s| self.set(s, None)).into_iter().collect(),
            not_sets: negated
                .map(|e| self.set(Selector::from_expr(e), None))
                .into_iter()
                .collect(),
            ports: numbers,
            named_ports: names,
            not_ports: not_numbers,
            not_named_ports: not_names,
        })
    }

    fn ports(
        &mut self,
        context: &Ports,
        field: &'static str,
        ports: &[Port],
    ) -> Result<(Vec<PortRange>, Vec<SetId>), RuleError> {
        let side = context.side;
        let Some(protocol) = context.protocol.filter(|p| p.has_ports()) else {
            let found = described(context.protocol);
            return match ports.is_empty() {
                true => Ok((Vec::new(), Vec::new())),
                false => Err(RuleError::Ports { side, field, found }),
            };
        };
        let (mut numbers, mut names) = (Vec::new(), Vec::new());
        for port in ports {
            match (port.bounds(), port) {
                (Some((first, last)), _) if first > 0 && first <= last => {
                    numbers.push(PortRange { first, last });
                }
                (None, Port::Named(name)) => {
                    let port = NamedPort {
                        name: name.clone(),
                        protocol: protocol.number(),
                    };
                    names.push(self.set(context.selector.clone(), Some(port)));
                }
                _ => {
                    return Err(RuleError::PortRange {
                        side,
                        field,
                        port: port.clone(),
                    });
                }
            }
        }
        Ok((numbers, names))
    }

    fn set(&mut self, selector: Selector, port: Option<NamedPort>) -> SetId {
        let def = SetDef { selector, port };
        let id = def.id();
        self.sets.entry(id.clone()).or_insert(def);
        id
    }
}

/// What the ports of one side depend on.
struct Ports {
    side: &'static str,
    protocol: Option<Protocol>,
    /// Whose named ports count.
    selector: Selector,
}

fn described(protocol: Option<Protocol>) -> String {
    protocol.map_or_else(|| "none".to_owned(), |p| p.to_string())
}

fn refuse_unknown(spec: &RuleSpec) -> Result<(), RuleError> {
    let unsupported = |field: String| Err(RuleError::Unsupported { field });
    if let Some(field) = spec.extra.keys().next() {
        return unsupported(field.clone());
    }
    if spec.http.is_some() {
        return unsupported("http".to_owned());
    }
    for (side, entity) in [("source", &spec.source), ("destination", &spec.destination)] {
        let accounts = entity
            .service_accounts
            .as_ref()
            .and_then(|a| a.extra.keys().next());
        if let Some(field) = entity.extra.keys().next().or(accounts) {
            return unsupported(format!("{side}.{field}"));
        }
        if entity.services.is_some() {
            return Err(RuleError::Services { side });
        }
    }
    Ok(())
}

fn icmp(
    field: &'static str,
    spec: Option<&Icmp>,
    protocol: Option<Protocol>,
) -> Result<Option<IcmpMatch>, RuleError> {
    let Some(spec) = spec else { return Ok(None) };
    if let Some(unknown) = spec.extra.keys().next() {
        return Err(RuleError::Unsupported {
            field: format!("{field}.{unknown}"),
        });
    }
    let found = match (spec.kind, spec.code) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(RuleError::IcmpCode { field }),
        (Some(kind), code) => IcmpMatch { kind, code },
    };
    match protocol.map(Protocol::number) {
        Some(ICMP | ICMP_V6) => Ok(Some(found)),
        _ => Err(RuleError::IcmpProtocol {
            field,
            found: described(protocol),
        }),
    }
}

pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP_V6: u8 = 58;

/// The families a rule can match: `Some(None)` for both, `None` for neither.
fn families(spec: &RuleSpec) -> Result<Option<Option<IpVersion>>, RuleError> {
    let given = match spec.ip_version {
        None => None,
        Some(4) => Some(IpVersion::V4),
        Some(6) => Some(IpVersion::V6),
        Some(found) => return Err(RuleError::IpVersion { found }),
    };
    let of_protocol = match spec.protocol.map(Protocol::number) {
        Some(ICMP) => Some(IpVersion::V4),
        Some(ICMP_V6) => Some(IpVersion::V6),
        _ => None,
    };
    if let (Some(given), Some(needed), Some(found)) = (given, of_protocol, spec.protocol)
        && given != needed
    {
        return Err(RuleError::Family {
            field: "protocol",
            found,
        });
    }
    let sides = [&spec.source, &spec.destination];
    let possible = |family: IpVersion| {
        given.or(of_protocol).is_none_or(|f| f == family)
            && sides.iter().all(|side| {
                has_family(&side.nets, family)
                    && has_family(&side.not_nets, family)
                    && !excludes_family(&side.not_nets, family)
            })
    };
    Ok(match (possible(IpVersion::V4), possible(IpVersion::V6)) {
        (true, true) => Some(None),
        (true, false) => Some(Some(IpVersion::V4)),
        (false, true) => Some(Some(IpVersion::V6)),
        (false, false) => None,
    })
}

/// Whether a list of networks leaves a family possible: it is empty or has one of that family.
fn has_family(nets: &[Cidr], family: IpVersion) -> bool {
    nets.is_empty() || nets.iter().any(|net| IpVersion::of(net.addr()) == family)
}

fn excludes_family(not_nets: &[Cidr], family: IpVersion) -> bool {
    not_nets
        .iter()
        .any(|net| net.prefix_len() == 0 && IpVersion::of(net.addr()) == family)
}
