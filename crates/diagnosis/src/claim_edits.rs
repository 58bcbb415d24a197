//! The causes why claims of a set do not follow their templates (rollouts.md C5).

use controller_planners::stateful_set::{Cause, StatefulSetPlan};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetCondition};
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::reasons::{stateful_set as reasons, stateful_set_condition as kinds};

use super::chain_builder::ChainBuilder;
use super::explanation::{CauseChain, Object};
use super::observed::ObservedNamespace;

/// The refusal of an edit, or the edits that wait for their turn. A change that failed is a cause of the plan, and has
/// a chain of its own.
pub(super) fn chain(
    observed: &ObservedNamespace,
    set: &StatefulSet,
    plan: &StatefulSetPlan,
    object: Object,
) -> Option<CauseChain> {
    let claims = condition(set, plan, kinds::CLAIMS_UP_TO_DATE)?;
    let stored = set
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let mut stored = stored.into_iter().flatten();
    // Only the controller knows the refusal: the plan of this program writes nothing.
    let refused = stored.find(|stored| {
        stored.type_ == kinds::PROGRESSING
            && stored.reason.as_deref() == Some(reasons::CLAIM_EDIT_IMPOSSIBLE)
    });
    let mut builder = ChainBuilder::of(observed);
    if let Some(refused) = refused.filter(|_| !plan.claim_edits.is_empty()) {
        let since = refused.last_transition_time.as_ref().map(|time| time.0);
        let message = refused.message.clone().unwrap_or_default();
        builder.link(object, reasons::CLAIM_EDIT_IMPOSSIBLE, message, since);
        let remedy = "remove the cause of the refusal (the StorageClass has to allow expansion, a quota has to have room), or \
                      take the edit of the template back";
        builder.remedy(back(set, remedy));
        return Some(builder.chain());
    }
    let failed = |waiting: &Cause| matches!(waiting, Cause::ClaimEditFailed { .. });
    let has_failed = plan.waiting_on.iter().any(|waiting| failed(&waiting.cause));
    let is_updating = claims.reason.as_deref() == Some(reasons::CLAIMS_UPDATING);
    if !is_updating || has_failed {
        return None;
    }
    let message = claims.message.as_deref().unwrap_or_default();
    let message = format!("claims follow their templates: {message}");
    builder.link(object, reasons::CLAIMS_UPDATING, message, None);
    builder
        .remedy("nothing to do; volumes change one after the other, from the highest ordinal down");
    Some(builder.chain())
}

/// The remedy to take an edit of a template back.
pub(super) fn back(set: &StatefulSet, what: &str) -> Remedy {
    let edit = format!("edit sts {}", text::name(&set.metadata));
    Remedy::new(what).with(text::kubectl(text::namespace(&set.metadata), &edit))
}

fn condition<'c>(
    set: &'c StatefulSet,
    plan: &'c StatefulSetPlan,
    kind: &str,
) -> Option<&'c StatefulSetCondition> {
    let status = plan.status.as_ref().or(set.status.as_ref())?;
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}
