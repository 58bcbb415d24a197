//! The `successPolicy` of an Indexed job.

use k8s_openapi::api::batch::v1::{JobSpec, SuccessPolicyRule};

use super::indexes::Indexes;

/// The first rule that the succeeded indexes fulfil, in words.
pub(super) fn met(spec: &JobSpec, done: &Indexes) -> Option<String> {
    let policy = spec.success_policy.as_ref()?;
    let end = u32::try_from(spec.completions.unwrap_or_default()).unwrap_or_default();
    let mut rules = policy.rules.iter();
    let index = rules.position(|rule| holds(rule, done, end))?;
    Some(format!("Matched rules at index {index}"))
}

fn holds(rule: &SuccessPolicyRule, done: &Indexes, end: u32) -> bool {
    let count = rule
        .succeeded_count
        .map(|count| usize::try_from(count).unwrap_or_default());
    match (&rule.succeeded_indexes, count) {
        (Some(text), count) => {
            let selected = Indexes::read(text, end);
            let matching = selected.len() - selected.without(done).len();
            matching >= count.unwrap_or(selected.len())
        }
        (None, Some(count)) => done.len() >= count,
        (None, None) => false,
    }
}
