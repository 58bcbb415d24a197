//! Webhooks and admission policies: their match rules, the requests to webhooks, and the evaluation of the responses
//! and of policies. Pure: the API server calls webhooks, and changes the object.

mod binding;
mod device_selectors;
mod environment;
mod error;
mod evaluation;
mod expressions;
mod matching;
mod mutation;
mod policy;
mod request;
mod review;
mod type_checking;
mod webhook;

pub use binding::{ParameterSource, PluralOf};
pub use device_selectors::DeviceSelectors;
pub use error::{ConfigurationError, ReviewError, RuleError};
pub use evaluation::{EnforcementAction, EvaluationFailure, EvaluationObserver, PolicyEvaluation};
pub use expressions::Expressions;
pub use matching::TargetResource;
pub use mutation::{MutatingPolicies, MutatingPolicy, Patch, PolicyFailures, RefusedObject};
pub use policy::{AdmissionObjects, AsVersion, Policies, PolicyJudgement};
pub use request::{ObjectKind, Request, ResourceAndKind};
pub use resource_kinds::Scope;
pub use review::{WebhookResponse, WebhookVerdict, response, review};
pub use type_checking::KindTypes;
pub use webhook::{Webhook, webhooks};
