//! Webhooks and admission policies: their match rules, the requests to webhooks, and the evaluation of the responses
//! and of policies. Pure: the API server calls webhooks, and changes the object.

mod binding;
mod device_selectors;
mod error;
mod expressions;
mod matching;
mod mutation;
mod policy;
mod request;
mod review;
mod webhook;

pub use binding::{ParameterSource, PluralOf};
pub use device_selectors::DeviceSelectors;
pub use error::{ReviewError, RuleError};
pub use expressions::Expressions;
pub use matching::TargetResource;
pub use mutation::{MutatingPolicies, MutatingPolicy, Patch, RefusedObject};
pub use policy::{AdmissionObjects, AsVersion, Policies, PolicyJudgement};
pub use request::{ObjectKind, Request, ResourceAndKind};
pub use resource_kinds::Scope;
pub use review::{WebhookVerdict, review, verdict};
pub use webhook::{Client, Webhook, webhooks};
