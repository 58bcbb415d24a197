//! admissionregistration.k8s.io: webhooks and policies that admit writes.

mod mutating_policy;
mod policy_binding;
mod rules;
mod validating_policy;
mod webhook_configuration;

pub use mutating_policy::MutatingAdmissionPolicy;
pub use policy_binding::PolicyBinding;
pub use validating_policy::ValidatingAdmissionPolicy;
pub use webhook_configuration::WebhookConfiguration;

/// The group; webhooks and policies do not apply to its objects.
pub const GROUP: &str = "admissionregistration.k8s.io";
