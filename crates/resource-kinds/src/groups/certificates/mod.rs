//! certificates.k8s.io: requests for certificates that are approved and then signed.

mod certificate_signing_request;
mod request;

pub use certificate_signing_request::CertificateSigningRequest;
pub use request::{Request, RequestError, end_of_validity};

#[cfg(test)]
pub(crate) use request::tests;

/// The API group of CertificateSigningRequests.
pub const GROUP: &str = "certificates.k8s.io";

/// The signers of every cluster.
pub mod signer {
    /// Signer of client certificates for the API server.
    pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    /// Signer of client certificates of nodes.
    pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    /// Signer of server certificates of nodes.
    pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
    /// Signer of requests that were created before `signerName` existed.
    pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
}

/// Types of conditions of a CertificateSigningRequest.
pub mod condition {
    /// The request is approved; its signer may sign.
    pub const APPROVED: &str = "Approved";
    /// The request is denied; its signer must not sign.
    pub const DENIED: &str = "Denied";
    /// The signer could not sign the request.
    pub const FAILED: &str = "Failed";
}
