//! networking.k8s.io: what comes in, and what may talk to what.

mod ingress;
mod ingress_class;
mod network_policy;

pub use ingress::Ingress;
pub use ingress_class::IngressClass;
pub use network_policy::NetworkPolicy;
