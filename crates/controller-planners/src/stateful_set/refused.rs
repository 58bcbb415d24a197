//! Writes that are planned again although the API server refused them: only a new attempt shows whether the API server
//! accepts the write now. Until then the set reports the API server's message.

use super::draft::Draft;
use super::observed::ParsedSet;
use super::plan::StatefulSetAction;
use super::waiting::Cause;

/// Sets the API server's message as the reason for each planned action that the API server refused.
pub(super) fn explain(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    let refused = &parsed.observed.refused;
    if refused.is_empty() {
        return;
    }
    let cause = |action: &StatefulSetAction| {
        let target = action.target();
        let refused = refused.iter().find(|refused| refused.action == target)?;
        Some(Cause::Refused {
            action: target,
            message: refused.message.clone(),
        })
    };
    let of_set = draft.prepare.iter().filter_map(cause);
    let mut waits: Vec<(Option<i64>, Cause)> = of_set.map(|cause| (None, cause)).collect();
    for work in &draft.pods {
        let causes = work.actions.iter().filter_map(cause);
        waits.extend(causes.map(|cause| (Some(work.ordinal), cause)));
    }
    for (ordinal, cause) in waits {
        draft.wait(ordinal, cause);
    }
}
