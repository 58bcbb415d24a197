//! Allocations: values that only one object of the cluster may have.

use json_tree::Value;
use object_model::Status;

/// An allocation of a value that is unique in the cluster: a Service address, a node port. It is stored in
/// the same transaction as its holder, so that no two objects hold the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// For instance `service-ip/10.96.0.10` or `node-port/TCP/30080`.
    pub key: String,
    /// The refusal of another object that requests the same value.
    pub refusal: AllocationRefusal,
    /// The object that shows it to clients (an IPAddress), created and deleted with it.
    pub object: Option<Value>,
}

/// The field that asks for an allocation, and the text of the refusal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllocationRefusal {
    /// Path of the field, for instance `spec.clusterIPs[0]`.
    pub field: String,
    /// Text, for instance `provided IP is already allocated`.
    pub detail: String,
}

/// Lookup of the stored allocations.
pub trait AllocationLookup {
    /// Whether an object holds `key`.
    fn is_allocated(&self, key: &str) -> bool;
}

/// A kind whose objects hold allocations. The defaults are those of a kind without allocations.
pub trait Allocating: Send + Sync {
    /// Chooses addresses, ports and the like that the user left to the cluster.
    fn allocate(
        &self,
        _object: &mut Value,
        _old: Option<&Value>,
        _taken: &dyn AllocationLookup,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Whether objects of the kind can hold allocations.
    fn has_allocations(&self) -> bool {
        false
    }

    /// Whether stored objects can be older than the configuration that gives them allocations.
    fn may_lack_allocations(&self) -> bool {
        false
    }

    /// The allocations that the object holds.
    fn allocations(&self, _object: &Value) -> Vec<Allocation> {
        Vec::new()
    }
}
