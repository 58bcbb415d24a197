//! Warnings for kinds that are stored but have no effect (`docs/differences.md`).

use json_tree::Value;

/// The warning for a new object of a kind without an implementation.
pub(crate) fn not_acted_on(kind: &str, what: &str, old: Option<&Value>) -> Vec<String> {
    match old {
        Some(_) => Vec::new(),
        None => vec![format!(
            "{kind} is stored and served, but mainstay does not act on it yet: {what}"
        )],
    }
}
