//! How much memory namespaces are sure of, and how much they may have.
//!
//! A budget is of all namespaces that it names, together: those of a tenant, or of one model of
//! it. What a reader would get wrong: a namespace has one budget, the first of the list that names
//! it, so what is special stands in front.

use larder_protocol::NamespaceSpec;

use super::check::refused;
use super::units::parse_bytes;
use super::{Config, ConfigError, format_bytes};
use crate::store::Share;

/// What a list of budgets looks like, for messages.
pub(super) const BUDGETS_FORM: &str = "a list of tenant[/model]=floor..ceiling, either size left \
    out or both with units, such as acme/vit=1GiB..4GiB,acme=..8GiB,*=..2GiB";

/// What the namespaces of one tenant, or of one of its models, may take of a node's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Whose, `None` for everybody's.
    pub tenant: Option<String>,
    /// Of which model, `None` for all.
    pub model: Option<String>,
    /// Others never push them below this, in bytes on the whole node.
    pub floor_bytes: u64,
    /// They never take more than this, in bytes on the whole node.
    pub ceiling_bytes: u64,
}

impl Budget {
    /// What it is on one of so many shards.
    pub(crate) fn share(&self, shards: u16) -> Share {
        let shards = u64::from(shards);
        let ceiling_bytes = match self.ceiling_bytes {
            u64::MAX => u64::MAX,
            bytes => bytes / shards,
        };
        Share { floor_bytes: self.floor_bytes / shards, ceiling_bytes, bytes: 0 }
    }

    /// Whether it is of this namespace.
    pub(crate) fn is_of(&self, spec: &NamespaceSpec) -> bool {
        let is = |named: &Option<String>, name: &str| named.as_deref().is_none_or(|n| n == name);
        is(&self.tenant, &spec.tenant) && is(&self.model, &spec.model)
    }
}

/// Reads a list of budgets with commas between them; an empty text is an empty list.
pub(super) fn budgets(text: &str) -> Option<Vec<Budget>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|budget| parse(budget.trim())).collect()
}

fn parse(text: &str) -> Option<Budget> {
    let (whose, sizes) = text.rsplit_once('=')?;
    let (tenant, model) = match whose.split_once('/') {
        Some((tenant, model)) => (tenant, Some(model)),
        None => (whose, None),
    };
    let named = |name: &str| (name != "*").then(|| name.to_owned());
    let (floor, ceiling) = sizes.split_once("..")?;
    let size =
        |text: &str, missing| if text.is_empty() { Some(missing) } else { parse_bytes(text) };
    Some(Budget {
        tenant: named(tenant),
        model: model.and_then(named),
        floor_bytes: size(floor, 0)?,
        ceiling_bytes: size(ceiling, u64::MAX)?,
    })
}

impl Config {
    pub(super) fn check_budgets(&self) -> Result<(), ConfigError> {
        let refuse = |expected: String| {
            let given = self.budgets.iter().map(|budget| {
                let ceiling = budget.ceiling_bytes;
                format!("{}..{}", format_bytes(budget.floor_bytes), format_bytes(ceiling))
            });
            Err(refused("budgets", given.collect::<Vec<_>>().join(","), expected))
        };
        if self.budgets.len() > BUDGETS_MAX {
            return refuse(format!("at most {BUDGETS_MAX} budgets"));
        }
        if self.budgets.iter().any(|budget| budget.floor_bytes > budget.ceiling_bytes) {
            return refuse("floors that are not above their ceilings".into());
        }
        let floors = self.budgets.iter().map(|budget| budget.floor_bytes);
        let floors = floors.fold(0, u64::saturating_add);
        let most = self.memory_bytes / 4 * 3;
        if floors > most {
            let (floors, most) = (format_bytes(floors), format_bytes(most));
            return refuse(format!("floors of at most {most} together, not {floors}"));
        }
        Ok(())
    }
}

/// More would be looked through for each new namespace.
pub(crate) const BUDGETS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(tenant: &str, model: &str) -> NamespaceSpec {
        NamespaceSpec::new(tenant, model)
    }

    #[test]
    fn budgets_are_read_and_name_their_namespaces() {
        let list = budgets("acme/meta/llama=1GiB..4GiB, acme=..8GiB,*/vit=1MiB..,*=..").unwrap();
        let sizes: Vec<_> = list.iter().map(|b| (b.floor_bytes, b.ceiling_bytes)).collect();
        assert_eq!(sizes, [(1 << 30, 4 << 30), (0, 8 << 30), (1 << 20, u64::MAX), (0, u64::MAX)]);
        let of = |tenant, model| list.iter().position(|b| b.is_of(&spec(tenant, model)));
        assert_eq!(of("acme", "meta/llama"), Some(0));
        assert_eq!(of("acme", "vit"), Some(1), "the first that names it");
        assert_eq!(of("other", "vit"), Some(2));
        assert_eq!(of("other", "llama"), Some(3));
        for wrong in ["acme", "acme=1GiB", "acme=1..2", "acme=1GiB..4GB", "=", ","] {
            assert_eq!(budgets(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn budgets_that_cannot_be_kept_are_refused() {
        let check = |text| {
            let budgets = budgets(text).unwrap();
            Config { budgets, ..Config::default() }.check()
        };
        check("a=768MiB..,b=..1MiB").unwrap();
        for (text, part) in
            [("a=2MiB..1MiB", "not above"), ("a=512MiB..,b=512MiB..", "together, not 1GiB")]
        {
            let message = check(text).unwrap_err().to_string();
            assert!(message.starts_with("--budgets ") && message.contains(part), "{message}");
        }
    }
}
