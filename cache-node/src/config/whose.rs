//! Namespaces by the names of their tenant and their model.
//!
//! What a reader would get wrong: the name of a tenant ends at the first slash; a model's may have
//! more of them.

use larder_protocol::NamespaceSpec;

use super::check::refused;
use super::{Config, ConfigError};
use crate::store::Policy;

/// What a list of them looks like, for messages.
pub(super) const WHOSE_FORM: &str =
    "a list of tenant[/model], * for any, such as acme/llama,*/qwen";

/// The namespaces of one tenant, or of one of its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// Whose, `None` for everybody's.
    pub tenant: Option<String>,
    /// Of which model, `None` for all.
    pub model: Option<String>,
}

impl Whose {
    /// Reads `tenant[/model]`, either of them `*` for any.
    pub(super) fn parse(text: &str) -> Self {
        let (tenant, model) = match text.split_once('/') {
            Some((tenant, model)) => (tenant, Some(model)),
            None => (text, None),
        };
        let named = |name: &str| (name != "*").then(|| name.to_owned());
        Self { tenant: named(tenant), model: model.and_then(named) }
    }

    /// Whether they are those of this namespace.
    pub(crate) fn has(&self, spec: &NamespaceSpec) -> bool {
        let is = |named: &Option<String>, name: &str| named.as_deref().is_none_or(|n| n == name);
        is(&self.tenant, &spec.tenant) && is(&self.model, &spec.model)
    }
}

/// Reads a list with commas between them; an empty text is an empty list.
pub(super) fn list(text: &str) -> Option<Vec<Whose>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let each = text.split(',').map(str::trim);
    // Classes have budgets, and cannot be weighed apart.
    let is_name = |whose: &str| !whose.is_empty() && !whose.contains('#');
    each.map(|whose| is_name(whose).then(|| Whose::parse(whose))).collect()
}

impl Config {
    pub(super) fn check_cost_weighted(&self) -> Result<(), ConfigError> {
        let is_by_hits = matches!(self.policy, Policy::Hazard { by_cost: false, .. });
        if self.cost_weighted.is_empty() || is_by_hits {
            return Ok(());
        }
        let given = format!("{} namespaces", self.cost_weighted.len());
        Err(refused("cost-weighted", given, "none, unless the policy is hazard"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_namespaces() {
        let whose = list("acme/meta/llama, beta,*/vit").unwrap();
        let named = |tenant, model| {
            let spec = NamespaceSpec::new(tenant, model);
            whose.iter().position(|whose| whose.has(&spec))
        };
        assert_eq!(named("acme", "meta/llama"), Some(0));
        assert_eq!(named("acme", "qwen"), None);
        assert_eq!(named("beta", "qwen"), Some(1));
        assert_eq!(named("acme", "vit"), Some(2));
        assert_eq!((list(""), list("a,,b"), list("a#7")), (Some(Vec::new()), None, None));
        assert!(list("*").unwrap()[0].has(&NamespaceSpec::new("any", "any")));
    }

    #[test]
    fn only_a_policy_that_judges_by_hits_can_weigh_some_by_cost() {
        let check = |policy| {
            let cost_weighted = list("acme").unwrap();
            Config { policy, cost_weighted, ..Config::default() }.check()
        };
        check(Policy::HAZARD).unwrap();
        for policy in [Policy::Lru, Policy::S3Fifo, Policy::HAZARD_BY_COST] {
            let message = check(policy).unwrap_err().to_string();
            assert!(message.starts_with("--cost-weighted "), "{message}");
        }
    }
}
