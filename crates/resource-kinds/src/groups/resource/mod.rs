//! resource.k8s.io: devices that drivers offer, and claims of them.

mod claim_spec;
mod claim_status;
mod device;
mod device_class;
mod identifiers;
mod lists;
mod resource_claim;
mod resource_claim_template;
mod resource_slice;

pub use device_class::DeviceClass;
pub use resource_claim::ResourceClaim;
pub use resource_claim_template::ResourceClaimTemplate;
pub use resource_slice::ResourceSlice;

/// The group of devices and claims.
pub const GROUP: &str = "resource.k8s.io";
/// The label of namespaces in which claims may ask for administrative access.
pub const ADMIN_ACCESS_LABEL: &str = "resource.kubernetes.io/admin-access";
/// The annotation of a claim that was created for a pod: the claim's name in the pod.
pub const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// The finalizer of an allocated claim.
pub const ALLOCATED: &str = "resource.kubernetes.io/delete-protection";
