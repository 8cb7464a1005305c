//! What the selectors of a policy mean once its namespace, namespaceSelector and service accounts are
//! taken into account: one plain selector over the labels of endpoints and network sets.

use margay_model::rule::{EntityRule, ServiceAccountMatch};

use crate::selector::{Expr, ParseError, Selector};

/// Implicit label: the namespace of an endpoint or network set.
pub(super) const NAMESPACE: &str = "projectcalico.org/namespace";
/// Implicit label: who made the endpoint.
pub(super) const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// Implicit label: the service account of an endpoint.
pub(super) const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Implicit label of a namespace or service account: its own name.
pub(super) const NAME: &str = "projectcalico.org/name";
/// What the labels of a namespace are called on its endpoints.
pub(super) const NAMESPACE_PREFIX: &str = "pcns.";
/// What the labels of a service account are called on its endpoints.
pub(super) const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";

/// A selector that cannot be read, and the field it stands in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {source}")]
pub(super) struct BadSelector {
    field: &'static str,
    source: ParseError,
}

/// A selector field; absent, empty and blank are the same.
pub(super) fn parse(
    field: &'static str,
    text: Option<&String>,
) -> Result<Option<Expr>, BadSelector> {
    match text.map(|t| t.trim_matches([' ', '\t'])) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse::<Selector>() {
            Ok(selector) => Ok(Some(selector.expr().clone())),
            Err(source) => Err(BadSelector { field, source }),
        },
    }
}

/// A namespaceSelector as labels of the endpoints: `all()` is "in a namespace", `global()` "in none".
pub(super) fn namespaces(selector: &Expr) -> Expr {
    let in_any = Expr::Has(NAMESPACE.into());
    selector.prefixed(NAMESPACE_PREFIX, &in_any, &in_any.clone().negated())
}

/// A selector of service accounts as labels of the endpoints.
pub(super) fn service_accounts(selector: &Expr) -> Expr {
    selector.prefixed(SERVICE_ACCOUNT_PREFIX, &Expr::All, &Expr::Global)
}

/// Endpoints and network sets of one namespace.
pub(super) fn in_namespace(namespace: &str) -> Expr {
    Expr::Equals(NAMESPACE.into(), namespace.into())
}

/// Endpoints of hosts and global network sets.
pub(super) fn in_no_namespace() -> Expr {
    Expr::Has(NAMESPACE.into()).negated()
}

/// The conjunction of what is there, without operands that are always true.
pub(super) fn conjunction(parts: impl IntoIterator<Item = Expr>) -> Selector {
    let trivial = |e: &Expr| matches!(e, Expr::All | Expr::Global);
    Selector::from_expr(Expr::and(
        parts.into_iter().filter(|e| !trivial(e)).collect(),
    ))
}

/// The selector that one side of a rule must match, if it names any.
///
/// In a namespaced policy any selector, `notSelector` or service account limits the side to that
/// namespace, unless a namespaceSelector says which ones.
pub(super) fn entity_selector(
    entity: &EntityRule,
    namespace: Option<&str>,
) -> Result<Option<Selector>, BadSelector> {
    let selector = parse("selector", entity.selector.as_ref())?;
    let negated = parse("notSelector", entity.not_selector.as_ref())?;
    let accounts = entity.service_accounts.as_ref();
    let scope = match parse("namespaceSelector", entity.namespace_selector.as_ref())? {
        Some(given) => Some(namespaces(&given)),
        None if selector.is_some() || negated.is_some() || accounts.is_some() => {
            namespace.map(in_namespace)
        }
        None => None,
    };
    let accounts = accounts.map(account_parts).transpose()?.unwrap_or_default();
    if selector.is_none() && scope.is_none() && accounts.is_empty() {
        return Ok(None);
    }
    Ok(Some(conjunction(
        selector.into_iter().chain(accounts).chain(scope),
    )))
}

fn account_parts(accounts: &ServiceAccountMatch) -> Result<Vec<Expr>, BadSelector> {
    let mut parts = Vec::new();
    if !accounts.names.is_empty() {
        parts.push(Expr::is_in(
            SERVICE_ACCOUNT,
            accounts.names.iter().map(String::as_str),
        ));
    }
    let selector = parse("serviceAccounts.selector", accounts.selector.as_ref())?;
    parts.extend(selector.as_ref().map(service_accounts));
    Ok(parts)
}
