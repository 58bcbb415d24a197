//! Unhealthy parts of the control plane, as the server reports them.

use k8s_openapi::api::core::v1::ComponentStatus;
use pod_lifecycle::diagnosis::Remedy;

use super::chain_builder::ChainBuilder;
use super::explanation::{Explanation, Object};
use super::observed::ObservedNamespace;

pub(super) fn explain(
    observed: &ObservedNamespace,
    component: &ComponentStatus,
    object: Object,
) -> Explanation {
    let conditions = component.conditions.iter().flatten();
    let mut unwell = conditions.filter(|condition| condition.status != "True");
    let Some(condition) = unwell.next() else {
        return Explanation::fine(object, "healthy");
    };
    let texts = [&condition.error, &condition.message];
    let texts = texts.into_iter().flatten().find(|texts| !texts.is_empty());
    let texts = texts.cloned().unwrap_or_default();
    let is_store = object.name == "etcd-0";
    let message = match is_store {
        true => format!("the store cannot be written: {texts}"),
        false => format!("is not healthy: {texts}"),
    };
    let mut builder = ChainBuilder::of(observed);
    builder.link(object.clone(), "Unhealthy", message, None);
    let remedy = if is_store {
        "free space on the file system of the data directory, or delete objects; deleting works \
         all the time"
    } else {
        "the server's log says more"
    };
    let verbose = "kubectl get --raw '/readyz?verbose'";
    builder.remedy(Remedy::new(remedy).with(verbose));
    Explanation::fine(object, "not healthy").waits([builder.chain()])
}
