//! Allocations: values that only one object of the cluster may have.

use json_tree::Value;
use object_model::Status;

use super::cluster::ServiceRange;

/// An allocation of a value that is unique in the cluster: a Service address, a node port. The allocation is stored
/// in the transaction of the object that owns it, so that two objects never have the same value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// For instance `service-ip/10.96.0.10` or `node-port/TCP/30080`.
    pub key: String,
    /// The error for another object that requests the value.
    pub refusal: AllocationRefusal,
    /// The object that represents the allocation in the API (an IPAddress). It is created and deleted together with
    /// the allocation.
    pub object: Option<Value>,
}

/// The field that requests an allocation, and the text of the error.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllocationRefusal {
    /// Path of the field, for instance `spec.clusterIPs[0]`.
    pub field: String,
    /// Text, for instance `provided IP is already allocated`.
    pub detail: String,
}

/// Lookup of the stored allocations.
pub trait AllocationLookup {
    /// Whether an object owns `key`.
    fn is_allocated(&self, key: &str) -> bool;

    /// The ranges of Service addresses that the ready ServiceCIDRs name.
    fn service_ranges(&self) -> Vec<ServiceRange>;
}

/// A kind whose objects own allocations. The default methods are those of a kind without allocations.
pub trait Allocating: Send + Sync {
    /// Chooses addresses, ports and similar values that the user did not set.
    fn allocate(
        &self,
        _object: &mut Value,
        _old: Option<&Value>,
        _allocated: &dyn AllocationLookup,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Whether objects of the kind can own allocations.
    fn has_allocations(&self) -> bool {
        false
    }

    /// Whether stored objects can be older than the configuration from which they get allocations.
    fn may_lack_allocations(&self) -> bool {
        false
    }

    /// The allocations that the object owns.
    fn allocations(&self, _object: &Value) -> Vec<Allocation> {
        Vec::new()
    }
}
