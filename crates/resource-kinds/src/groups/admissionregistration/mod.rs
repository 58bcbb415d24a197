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

/// Webhooks and policies do not apply to objects of this group.
pub const GROUP: &str = "admissionregistration.k8s.io";
