//! certificates.k8s.io: requests for certificates, which are approved and signed.

mod certificate_signing_request;
mod request;

pub use certificate_signing_request::CertificateSigningRequest;
pub use request::{Request, RequestError, end_of_validity};

#[cfg(test)]
pub(crate) use request::tests;

/// API group.
pub const GROUP: &str = "certificates.k8s.io";

/// The signers that every cluster has.
pub mod signer {
    /// Clients of the API.
    pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    /// Nodes as clients of the API.
    pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    /// Nodes as servers.
    pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
    /// From before signers had names.
    pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
}

/// Types of conditions.
pub mod condition {
    /// The signer may sign.
    pub const APPROVED: &str = "Approved";
    /// The signer must not sign.
    pub const DENIED: &str = "Denied";
    /// The signer could not sign.
    pub const FAILED: &str = "Failed";
}
