//! networking.k8s.io: Ingresses, network policies, addresses.

mod ingress;
mod ingress_class;
mod ip_address;
mod network_policy;
mod service_cidr;

pub use ingress::Ingress;
pub use ingress_class::IngressClass;
pub use ip_address::IPAddress;
pub(crate) use ip_address::address_of;
pub use network_policy::NetworkPolicy;
pub use service_cidr::{ServiceCIDR, default_range, ready_ranges};
