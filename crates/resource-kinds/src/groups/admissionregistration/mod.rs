//! admissionregistration.k8s.io: who else has a say in what is written.

mod mutating_policy;
mod policy;
mod policy_binding;
mod rules;
mod webhook_configuration;

pub use mutating_policy::MutatingAdmissionPolicy;
pub use policy::ValidatingAdmissionPolicy;
pub use policy_binding::PolicyBinding;
pub use webhook_configuration::WebhookConfiguration;

/// The group, whose own objects no webhook and no policy has a say in.
pub const GROUP: &str = "admissionregistration.k8s.io";
