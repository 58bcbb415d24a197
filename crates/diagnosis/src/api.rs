//! Parts of the API: definitions of kinds, servers of other groups, requests for certificates.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use pod_lifecycle::diagnosis::{Remedy, text};

use super::chain_builder::ChainBuilder;
use super::explanation::{Explanation, Object};
use super::observed::ObservedNamespace;

pub(super) fn signing_request(
    observed: &ObservedNamespace,
    request: &CertificateSigningRequest,
    object: Object,
) -> Explanation {
    let name = object.name.clone();
    let status = request.status.clone().unwrap_or_default();
    let find = |kind: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == kind)
    };
    let signer = &request.spec.signer_name;
    let created = request
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0);
    let mut builder = ChainBuilder::of(observed);
    let delete = format!("kubectl delete csr {name}");
    let summary = if let Some(end) = find("Denied").or_else(|| find("Failed")) {
        let detail = text::then(": ", end.message.as_deref().unwrap_or_default());
        let what = match end.type_.as_str() {
            "Denied" => "was denied",
            _ => "could not be signed",
        };
        let since = end.last_update_time.as_ref().map(|time| time.0);
        builder.link(
            object.clone(),
            &*end.type_,
            format!("{what}{detail}"),
            since,
        );
        let text = "it stays failed: correct the error, and create a new request after this";
        builder.remedy(Remedy::new(text).with(delete));
        "refused"
    } else if status.certificate.is_some_and(|bytes| !bytes.0.is_empty()) {
        return Explanation::fine(object, "signed");
    } else if let Some(approved) = find("Approved") {
        let since = approved.last_update_time.as_ref().map(|time| time.0);
        let message = format!("is approved, and signer {signer} has not signed it");
        builder.link(object.clone(), "NoSigner", message, since);
        let text = if signer.starts_with("kubernetes.io/") {
            "nothing to do; the controller is about to sign it; if it does not, give the request up"
        } else {
            "run the controller of that signer; or delete the request"
        };
        builder.remedy(Remedy::new(text).with(delete));
        "approved"
    } else {
        let user = request.spec.username.as_deref().unwrap_or_default();
        let message = format!("{user} requested it, and it is neither approved nor denied");
        builder.link(object.clone(), "PendingApproval", message, created);
        let text =
            format!("decide, if {user} may have it (kubectl certificate deny {name} if not)");
        builder.remedy(Remedy::new(text).with(format!("kubectl certificate approve {name}")));
        "pending"
    };
    Explanation::fine(object, summary).waits([builder.chain()])
}

pub(super) fn definition(
    observed: &ObservedNamespace,
    definition: &CustomResourceDefinition,
    object: Object,
) -> Explanation {
    let status = definition.status.clone().unwrap_or_default();
    let name = &object.name;
    let mut builder = ChainBuilder::of(observed);
    let find = |kind: &str, value: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == kind && condition.status == value)
    };
    let line_of = |message: &Option<String>| text::line(message.as_deref().unwrap_or_default());
    if let Some(since) = &definition.metadata.deletion_timestamp {
        let terminating = find("Terminating", "True");
        let text = terminating.map_or(String::new(), |one| line_of(&one.message));
        let message = format!(
            "being deleted: first all objects of the kind{}",
            text::then(": ", &text)
        );
        builder.link(object.clone(), "Terminating", message, Some(since.0));
        let plural = format!("{}.{}", definition.spec.names.plural, definition.spec.group);
        builder.remedy(
            Remedy::new(
                "the owner of finalizers on objects of the kind has to remove them; this shows them",
            )
            .with(format!("kubectl get {plural} -A")),
        );
        return Explanation::fine(object, "being deleted").waits([builder.chain()]);
    }
    if let Some(refused) = find("NamesAccepted", "False") {
        let message = format!("its names are not free: {}", line_of(&refused.message));
        let reason = refused.reason.clone().unwrap_or_default();
        let since = refused.last_transition_time.as_ref().map(|time| time.0);
        builder.link(object.clone(), reason, message, since);
        builder.remedy(
            Remedy::new("another definition has that name: delete one of the two")
                .with(format!("kubectl delete crd {name}")),
        );
        return Explanation::fine(object, "not served").waits([builder.chain()]);
    }
    if find("NonStructuralSchema", "True").is_some() || find("Established", "True").is_none() {
        let condition =
            find("NonStructuralSchema", "True").or_else(|| find("Established", "False"));
        let why = condition.map_or(String::new(), |one| line_of(&one.message));
        let message = format!("is not served yet{}", text::then(": ", &why));
        builder.link(object.clone(), "NotEstablished", message, None);
        builder.remedy(
            Remedy::new("nothing to do if it is new; otherwise correct the error")
                .with(format!("kubectl edit crd {name}")),
        );
        return Explanation::fine(object, "not served").waits([builder.chain()]);
    }
    Explanation::fine(object, "served")
}

pub(super) fn api_service(
    observed: &ObservedNamespace,
    service: &APIService,
    object: Object,
) -> Explanation {
    let status = service.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.into_iter().flatten();
    let available = conditions.find(|condition| condition.type_ == "Available");
    let Some(unavailable) = available.filter(|condition| condition.status != "True") else {
        return Explanation::fine(object, "available");
    };
    let reason = unavailable.reason.unwrap_or_default();
    let message = text::then(": ", unavailable.message.as_deref().unwrap_or_default());
    let since = unavailable.last_transition_time.map(|time| time.0);
    let mut builder = ChainBuilder::of(observed);
    builder.link(
        object.clone(),
        reason,
        format!("is not available{message}"),
        since,
    );
    let spec = service.spec.clone().unwrap_or_default();
    let behind = spec.service.map(|service| {
        let namespace = service.namespace.unwrap_or_default();
        format!("{}/{}", namespace, service.name.unwrap_or_default())
    });
    let behind = behind.unwrap_or_else(|| "behind it".to_owned());
    builder.remedy(
        Remedy::new(format!(
            "the Service {behind} must respond; if its program was removed permanently, delete this APIService"
        ))
        .with(format!("kubectl delete apiservice {}", object.name)),
    );
    Explanation::fine(object, "not available").waits([builder.chain()])
}
