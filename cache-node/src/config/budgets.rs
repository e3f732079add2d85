//! How much memory namespaces are sure of, and how much they may have.
//!
//! A budget is of all namespaces that it names, together: those of a tenant, or of one model of
//! it, or only of their objects with one class hint. What a reader would get wrong: an object has
//! one budget, the first of the list that names it, so what is special stands in front.

use larder_protocol::NamespaceSpec;

use super::check::refused;
use super::units::parse_bytes;
use super::whose::Whose;
use super::{Config, ConfigError, format_bytes};
use crate::store::{Assigned, Share};

/// What a list of budgets looks like, for messages.
pub(super) const BUDGETS_FORM: &str = "a list of tenant[/model][#class]=floor..ceiling, a class \
    hint of 0 to 255, either size left out or both with units, such as \
    acme/vit=1GiB..4GiB,acme#7=..1GiB,acme=..8GiB,*=..2GiB";

/// What the namespaces of one tenant, or of one of its models, may take of a node's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Of which namespaces.
    pub whose: Whose,
    /// Of objects with this class hint, `None` for all.
    pub class: Option<u8>,
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
}

/// The budgets of a namespace: for each class of objects the first that names it.
pub(crate) fn assigned(budgets: &[Budget], spec: &NamespaceSpec) -> Assigned {
    let mut assigned = Assigned::default();
    for (number, budget) in (0u16..).zip(budgets).filter(|(_, budget)| budget.whose.has(spec)) {
        match budget.class {
            None => {
                assigned.rest = Some(number);
                break;
            }
            Some(class) if assigned.classes.iter().any(|(known, _)| *known == class) => {}
            Some(class) => assigned.classes.push((class, number)),
        }
    }
    assigned
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
    let (whose, class) = match whose.rsplit_once('#') {
        Some((whose, class)) => (whose, Some(class.parse().ok()?)),
        None => (whose, None),
    };
    let (floor, ceiling) = sizes.split_once("..")?;
    let size =
        |text: &str, missing| if text.is_empty() { Some(missing) } else { parse_bytes(text) };
    Some(Budget {
        whose: Whose::parse(whose),
        class,
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
        let of = |tenant, model| list.iter().position(|b| b.whose.has(&spec(tenant, model)));
        assert_eq!(of("acme", "meta/llama"), Some(0));
        assert_eq!(of("acme", "vit"), Some(1), "the first that names it");
        assert_eq!(of("other", "vit"), Some(2));
        assert_eq!(of("other", "llama"), Some(3));
        for wrong in
            ["acme", "acme=1GiB", "acme=1..2", "acme=1GiB..4GB", "=", ",", "a#=..", "a#256=.."]
        {
            assert_eq!(budgets(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn classes_of_objects_have_budgets_in_front_of_their_namespaces() {
        let list = budgets("a#7=..1GiB,*/m#7=..,a/m#8=1MiB..,a/m=..,*#9=..,*=..").unwrap();
        let of = |tenant, model| assigned(&list, &spec(tenant, model));
        assert_eq!(of("a", "m"), Assigned { classes: vec![(7, 0), (8, 2)], rest: Some(3) });
        assert_eq!(of("a", "n"), Assigned { classes: vec![(7, 0), (9, 4)], rest: Some(5) });
        assert_eq!(of("b", "m"), Assigned { classes: vec![(7, 1), (9, 4)], rest: Some(5) });
        assert_eq!(assigned(&list[..1], &spec("b", "m")), Assigned::default());
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
