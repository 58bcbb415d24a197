//! The one trait that the generic pipeline knows a kind by.

use jiff::Timestamp;
use object_model::{FieldError, Status};
use serde_json::Value;

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster as a whole.
    Cluster,
}

/// What may be done with objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the API's own verbs")]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

/// A part of an object, or an action on it, with a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last path segment, for instance `status`, `scale`, `log`.
    pub name: &'static str,
    /// API group of the kind that is read or sent (`autoscaling` for `scale`).
    pub group: &'static str,
    /// Version of that kind.
    pub version: &'static str,
    /// That kind, for instance `Scale`.
    pub kind: &'static str,
    /// What may be done with it.
    pub verbs: &'static [Verb],
}

/// The fixed facts of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version served.
    pub version: &'static str,
    /// `StatefulSet`.
    pub kind: &'static str,
    /// `StatefulSetList`.
    pub list_kind: &'static str,
    /// `statefulsets`.
    pub plural: &'static str,
    /// `statefulset`.
    pub singular: &'static str,
    /// `sts`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Namespaced or not.
    pub scope: Scope,
    /// Verbs on the object itself; empty for a kind that only exists as a sub-resource's body.
    pub verbs: &'static [Verb],
    /// Sub-resources; `status` and `scale` are generic, the rest are routed by name.
    pub subresources: &'static [Subresource],
    /// Storage prefix segment; two kinds that name the same one share their objects
    /// (core/v1 and events.k8s.io/v1 Event). The decoder of each converts.
    pub storage: &'static str,
}

/// A column of the table that `kubectl get` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, …
    pub kind: &'static str,
    /// OpenAPI format: `name` for the first column, else mostly empty.
    pub format: &'static str,
    /// What the column shows.
    pub description: &'static str,
    /// 0 always, 1 only with `-o wide`.
    pub priority: u8,
}

/// A cell of a table row.
pub type Cell = Value;

/// A thing of which the cluster has only one: a Service address, a node port. The pipeline stores
/// it in the same transaction as the object that holds it, so that two can never hold the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exclusive {
    /// For instance `service-ip/10.96.0.10` or `node-port/TCP/30080`.
    pub key: String,
    /// What the refusal says when it is taken.
    pub refusal: Refusal,
}

/// The field that named the exclusive thing and the text of the refusal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Path of the field.
    pub field: String,
    /// Text, for instance `provided IP is already allocated`.
    pub detail: String,
}

/// Which exclusive things are held by somebody.
pub trait Taken {
    /// Whether `key` is held.
    fn is_taken(&self, key: &str) -> bool;
}

/// Reads of other objects that admission and defaulting may do. Answers are those of the store
/// at the time of the request.
pub trait Lookup {
    /// One object, by group, plural, namespace (empty for cluster scope) and name.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a kind in a namespace (empty for all or cluster scope).
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value>;
}

/// Everything that is particular to one kind. All methods are pure; none may panic on any input.
///
/// The pipeline calls, on create: [`decode`](Self::decode), [`default`](Self::default),
/// [`prepare_create`](Self::prepare_create), admission, [`allocate`](Self::allocate),
/// [`validate_create`](Self::validate_create). On update the same with the `_update` twins and
/// the stored object as `old`. Object metadata (name, uid, timestamps, generation, finalizers,
/// owner references, labels) is the pipeline's own business.
pub trait Kind: Send + Sync + 'static {
    /// The fixed facts.
    fn info(&self) -> &'static KindInfo;

    /// Checks types and drops what the kind does not have. The error is a text in the manner of
    /// `json: cannot unmarshal string into Go struct field StatefulSetSpec.spec.replicas of type int32`.
    fn decode(&self, object: Value) -> Result<Value, String>;

    /// Fills in what the user left out. Idempotent.
    fn default(&self, object: &mut Value);

    /// Clears what a creator may not set (mostly the status).
    fn prepare_create(&self, object: &mut Value);

    /// Restores what an ordinary update may not touch (mostly the status).
    fn prepare_update(&self, object: &mut Value, old: &Value);

    /// Restores what an update through `status` may not touch (mostly all but the status).
    fn prepare_status_update(&self, object: &mut Value, old: &Value);

    /// Chooses addresses, ports and the like that the user left to the cluster.
    fn allocate(
        &self,
        _object: &mut Value,
        _old: Option<&Value>,
        _taken: &dyn Taken,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// The exclusive things that the object holds.
    fn exclusives(&self, _object: &Value) -> Vec<Exclusive> {
        Vec::new()
    }

    /// All that is wrong with a new object.
    fn validate_create(&self, object: &Value) -> Vec<FieldError>;

    /// All that is wrong with a changed object.
    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError>;

    /// All that is wrong with a changed status.
    fn validate_status_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Advice on an object that is accepted all the same.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Columns of the table, without those that every kind has in the same way.
    fn columns(&self) -> &'static [Column];

    /// The cells of one row, in the order of the columns.
    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell>;

    /// Conditions of the row (`Completed` for finished pods): (type, status, reason, message).
    fn row_conditions(&self, _object: &Value) -> Vec<(&'static str, &'static str, String, String)> {
        Vec::new()
    }

    /// The object's value for a field selector's label (beyond `metadata.name` and
    /// `metadata.namespace`); `None` if the kind cannot be selected by it.
    fn selectable_field(&self, _object: &Value, _field: &str) -> Option<String> {
        None
    }

    /// The names for which [`selectable_field`](Self::selectable_field) answers.
    fn selectable_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// The grace period, in seconds, that a deletion gets when `asked` for that many (or for
    /// nothing in particular); 0 removes the object at once (all kinds but pods, and pods that no
    /// node has yet or that have finished).
    fn grace(&self, _object: &Value, _asked: Option<i64>) -> i64 {
        0
    }

    /// Finalizers that every new object of the kind gets.
    fn initial_finalizers(&self) -> &'static [&'static str] {
        &[]
    }
}
