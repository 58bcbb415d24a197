//! CertificateSigningRequests for the signers that every cluster has.
//!
//! **Goal**: approved valid requests are signed; approved invalid requests fail with the reason; requests of nodes with
//! the right to a client or a server certificate are approved automatically; decided and expired requests are deleted.
//! **Relies on**: the API server, which lets only authorised users approve, and keeps decisions. **Guarantees**: no
//! request is signed that is not approved, is denied, or violates its signer's rules; a bootstrap token does not get
//! the certificate of a live node; a certificate of a node is for one node with a valid name; a node's server
//! certificate has no name or address of the API server or of another node; requests for other signers are deleted only
//! because of their age.

mod form;
mod node;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition as Condition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use resource_kinds::bootstrap_token::GROUP;
use resource_kinds::certificates::{Request, condition, end_of_validity, signer};

pub use node::{Names, NodeCertificateContext, asks_for_node};

/// A signed, denied or failed request is deleted after this time (as kube-controller-manager).
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// A request without a decision is deleted after this time.
const PENDING: SignedDuration = SignedDuration::from_hours(24);
/// The time to the next check of a requester's rights.
const AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// The next action for a request.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSigningAction {
    Delete,
    /// Approve the request with this condition, if the requester may `create` one of these sub-resources of requests.
    /// The first right that the requester has decides.
    ApproveIf(Vec<(&'static str, Condition)>),
    /// Deny the request with this condition.
    Deny(Condition),
    Sign {
        /// The approved request.
        request: Box<Request>,
        /// The usages of the certificate.
        usages: Vec<Usage>,
        /// The requested validity in seconds.
        seconds: Option<i64>,
    },
    /// Mark the request as failed.
    Fail(Condition),
}

/// A usage that these signers put into certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usage {
    ClientAuth,
    DigitalSignature,
    KeyEncipherment,
    ServerAuth,
}

/// The next action, and the time of the next check.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CertificateSigningPlan {
    /// The next write to the CertificateSigningRequest, if there is one.
    pub action: Option<CertificateSigningAction>,
    /// The time after which to plan again even without an event.
    pub wake_at: Option<Timestamp>,
}

/// Plans the next action for a request. Total.
pub fn plan(
    request: &Arc<CertificateSigningRequest>,
    around: &NodeCertificateContext<'_>,
    now: Timestamp,
) -> CertificateSigningPlan {
    if request.metadata.deletion_timestamp.is_some() {
        return CertificateSigningPlan::default();
    }
    let expiry = expiry(request);
    if expiry.is_some_and(|at| at <= now) {
        return CertificateSigningPlan {
            action: Some(CertificateSigningAction::Delete),
            wake_at: None,
        };
    }
    let action = next(request, around, now);
    let is_pending_approval = matches!(action, Some(CertificateSigningAction::ApproveIf(_)));
    let again = is_pending_approval.then(|| now.checked_add(AGAIN).unwrap_or(now));
    CertificateSigningPlan {
        action,
        wake_at: expiry.into_iter().chain(again).min(),
    }
}

/// The condition `Failed` of a request.
pub fn failed(message: String, now: Timestamp) -> Condition {
    decision(condition::FAILED, "SignerValidationFailure", message, now)
}

fn decision(kind: &str, reason: &str, message: String, now: Timestamp) -> Condition {
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(seconds)),
        last_transition_time: Some(Time(seconds)),
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[Condition] {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default()
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    (!certificate.0.is_empty()).then_some(certificate.0.as_slice())
}

fn next(
    request: &CertificateSigningRequest,
    around: &NodeCertificateContext<'_>,
    now: Timestamp,
) -> Option<CertificateSigningAction> {
    let has = |kind: &str| conditions(request).iter().any(|one| one.type_ == kind);
    let done = certificate(request).is_some() || has(condition::FAILED) || has(condition::DENIED);
    let spec = &request.spec;
    let form = form::of_signer(&spec.signer_name)?;
    if done {
        return None;
    }
    let usages = spec.usages.as_deref().unwrap_or_default();
    let csr = Request::parse(&spec.request.0).map_err(|error| error.to_string());
    let checked = csr.and_then(|csr| Ok((form.check(&csr, usages)?, csr)));
    if has(condition::APPROVED) {
        let checked = checked.and_then(|(usages, csr)| {
            let of_server = around.name_of_server(&csr);
            let of_server = of_server.filter(|_| spec.signer_name == signer::NODE_SERVING);
            match of_server {
                Some(name) => Err(format!("{name} covers a name of the API server")),
                None => Ok((usages, csr)),
            }
        });
        return Some(match checked {
            Ok((usages, csr)) => CertificateSigningAction::Sign {
                request: Box::new(csr),
                usages,
                seconds: spec.expiration_seconds.map(i64::from),
            },
            Err(why) => CertificateSigningAction::Fail(failed(why, now)),
        });
    }
    let (_, csr) = checked.ok()?;
    let is_for_itself = spec.username.as_deref() == Some(csr.common_name.as_str());
    let approved = |text: &str| {
        let text = format!("Auto approving {text} after SubjectAccessReview.");
        decision(condition::APPROVED, "AutoApproved", text, now)
    };
    match spec.signer_name.as_str() {
        signer::NODE_CLIENT => {}
        signer::NODE_SERVING => {
            let fits = is_for_itself && around.serving_names_fit(&csr);
            let right = (
                "selfnodeserver",
                approved("self kubelet server certificate"),
            );
            return fits.then(|| CertificateSigningAction::ApproveIf(vec![right]));
        }
        _ => return None,
    }
    let deny = |reason: &str, why: String| {
        let denied = decision(condition::DENIED, reason, why, now);
        Some(CertificateSigningAction::Deny(denied))
    };
    if let Some(why) = around.service_of_server(&csr.common_name) {
        return deny("NameOfServer", why);
    }
    let by_token = spec.groups.iter().flatten().any(|group| group == GROUP);
    if let Some(why) = around.alive(&csr.common_name).filter(|_| by_token) {
        return deny("NodeIsAlive", why);
    }
    let of_itself = (
        "selfnodeclient",
        approved("self kubelet client certificate"),
    );
    let of_another = ("nodeclient", approved("kubelet client certificate"));
    let rights = is_for_itself.then_some(of_itself).into_iter();
    Some(CertificateSigningAction::ApproveIf(
        rights.chain([of_another]).collect(),
    ))
}

/// The time at which a request is deleted: the end of its certificate, [`DECIDED`] after its
/// decision, or [`PENDING`] after its creation.
fn expiry(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let created = request.metadata.creation_timestamp.as_ref();
    let created = created.map(|time| time.0);
    let later = |at: Option<Timestamp>, span: SignedDuration| at?.checked_add(span).ok();
    let conditions = conditions(request);
    if conditions.is_empty() {
        return later(created, PENDING);
    }
    let certificate = certificate(request);
    let ends = conditions.iter().filter_map(|one| {
        let decided = match one.type_.as_str() {
            condition::APPROVED => certificate.is_some(),
            condition::DENIED | condition::FAILED => true,
            _ => false,
        };
        let updated = one.last_update_time.as_ref().map(|time| time.0);
        later(updated.or(created), DECIDED).filter(|_| decided)
    });
    let end_of_certificate = certificate.and_then(end_of_validity);
    ends.chain(end_of_certificate).min()
}
