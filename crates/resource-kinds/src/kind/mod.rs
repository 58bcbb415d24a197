//! The one trait that the generic pipeline knows a kind by.

pub(crate) mod cluster;
pub mod info;

use jiff::Timestamp;
use object_model::{FieldError, Status};
use serde_json::Value;

use crate::json::parts;

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
    /// What is read or sent.
    pub body: Body,
    /// What may be done with it.
    pub verbs: &'static [Verb],
}

/// What is read or sent at a sub-resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The object itself, as for `status`.
    Object,
    /// An object of another kind, as for `scale`.
    Other {
        /// Its API group.
        group: &'static str,
        /// Its version.
        version: &'static str,
        /// Its kind, for instance `Scale`.
        kind: &'static str,
    },
}

/// A list of words: a built-in kind has it in the program, a custom kind owns it.
#[derive(Clone, Copy, Debug)]
pub enum Words<'a> {
    /// Of a built-in kind.
    Fixed(&'static [&'static str]),
    /// Of a custom kind.
    Owned(&'a [String]),
}

impl<'a> Words<'a> {
    /// The words one by one.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let (fixed, owned): (&'static [&'static str], &'a [String]) = match self {
            Self::Fixed(words) => (words, &[]),
            Self::Owned(words) => (&[], words),
        };
        let fixed = fixed.iter().copied();
        fixed.chain(owned.iter().map(String::as_str))
    }

    /// All the words.
    pub fn to_vec(self) -> Vec<&'a str> {
        self.iter().collect()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether a word is in the list.
    pub fn contains(self, word: &str) -> bool {
        self.iter().any(|known| known == word)
    }
}

/// The fixed facts of a kind. The texts of a custom kind live as long as the kind does.
#[derive(Clone, Copy, Debug)]
pub struct KindInfo<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Version served.
    pub version: &'a str,
    /// `StatefulSet`.
    pub kind: &'a str,
    /// `StatefulSetList`.
    pub list_kind: &'a str,
    /// `statefulsets`.
    pub plural: &'a str,
    /// `statefulset`.
    pub singular: &'a str,
    /// `sts`.
    pub short_names: Words<'a>,
    /// `all`.
    pub categories: Words<'a>,
    /// Namespaced or not.
    pub scope: Scope,
    /// Verbs on the object itself; empty for a kind that only exists as a sub-resource's body.
    pub verbs: &'static [Verb],
    /// Sub-resources; `status` and `scale` are generic, the rest are routed by name.
    pub subresources: &'static [Subresource],
    /// Storage prefix segment; two kinds that name the same one share their objects
    /// (core/v1 and events.k8s.io/v1 Event). The decoder of each converts.
    pub storage: &'a str,
}

impl<'a> KindInfo<'a> {
    /// Group, version and kind of what is read or sent at a sub-resource.
    pub fn body(&self, part: &Subresource) -> (&'a str, &'a str, &'a str) {
        match part.body {
            Body::Object => (self.group, self.version, self.kind),
            Body::Other {
                group,
                version,
                kind,
            } => (group, version, kind),
        }
    }

    /// Whether objects of the kind have the named sub-resource.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|sub| sub.name == name)
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// A column of the table that `kubectl get` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Heading.
    pub name: &'a str,
    /// OpenAPI type: `string`, `integer`, …
    pub kind: &'a str,
    /// OpenAPI format: `name` for the first column, else mostly empty.
    pub format: &'a str,
    /// What the column shows.
    pub description: &'a str,
    /// 0 always, 1 only with `-o wide`.
    pub priority: u8,
}

/// A cell of a table row.
pub type Cell = Value;

/// An allocation of something that the cluster has only once: a Service address, a node port. It is
/// stored in the same transaction as its holder, so that no two objects hold the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// For instance `service-ip/10.96.0.10` or `node-port/TCP/30080`.
    pub key: String,
    /// The refusal of another object that asks for it.
    pub refusal: Refusal,
    /// The object that shows it to clients (an IPAddress), created and deleted with it.
    pub object: Option<Value>,
}

/// The field that asks for an allocation, and the text of the refusal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Path of the field.
    pub field: String,
    /// Text, for instance `provided IP is already allocated`.
    pub detail: String,
}

/// Lookup of the stored allocations.
pub trait AllocationLookup {
    /// Whether an object holds `key`.
    fn is_allocated(&self, key: &str) -> bool;
}

/// Reads of other objects that admission and defaulting may do. Answers are those of the store
/// at the time of the request.
pub trait Lookup {
    /// One object, by group, plural, namespace (empty for cluster scope) and name.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a kind in a namespace (empty for all or cluster scope).
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value>;
    /// Who makes the request: `uid`, `groups` and `extra`, as far as there are any.
    fn asker(&self) -> Value {
        Value::Null
    }
    /// Whether who makes the request has a right.
    fn allows(&self, _right: &Right<'_>) -> bool {
        false
    }
}

/// What somebody may be allowed to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Right<'a> {
    /// The verb.
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    /// Resource, plural.
    pub resource: &'a str,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// Name, empty for all.
    pub name: &'a str,
}

/// Everything that is particular to one kind. All methods are pure; none may panic on any input.
///
/// The pipeline calls, on create: [`decode`](Self::decode), [`default`](Self::default),
/// [`prepare_create`](Self::prepare_create), admission, [`allocate`](Self::allocate),
/// [`validate_create`](Self::validate_create). On update the same with the `_update` twins and
/// the stored object as `old`. What the server itself keeps in the metadata (uid, resource
/// version, timestamps, generation, managed fields) is the pipeline's own business.
pub trait Kind: Send + Sync + 'static {
    /// The fixed facts.
    fn info(&self) -> KindInfo<'_>;

    /// Checks types and drops what the kind does not have. The error is a text in the manner of
    /// `json: cannot unmarshal string into Go struct field StatefulSetSpec.spec.replicas of type
    /// int32`.
    fn decode(&self, object: Value) -> Result<Value, String>;

    /// Fills in what the user left out. Idempotent.
    fn default(&self, object: &mut Value);

    /// Clears what a creator may not set (mostly the status).
    fn prepare_create(&self, object: &mut Value) {
        if self.info().has_subresource("status") {
            parts::remove(object, "status");
        }
    }

    /// Restores what an ordinary update may not touch (mostly the status).
    fn prepare_update(&self, object: &mut Value, old: &Value) {
        if self.info().has_subresource("status") {
            parts::restore(object, old, "status");
        }
    }

    /// Restores what an update through `status` may not touch (mostly all but the status; the
    /// metadata stays as sent, its rules are the pipeline's).
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        parts::restore_all_but(object, old, &["status", "metadata"]);
    }

    /// Restores what an update through a sub-resource of the kind's own (`resize` of a pod) may
    /// not touch.
    fn prepare_subresource_update(&self, _name: &str, object: &mut Value, old: &Value) {
        old.clone_into(object);
    }

    /// All that is wrong with an update through a sub-resource of the kind's own.
    fn validate_subresource_update(
        &self,
        _name: &str,
        _object: &Value,
        _old: &Value,
    ) -> Vec<FieldError> {
        Vec::new()
    }

    /// Whether objects of the kind count their changes in `metadata.generation`: 1 at first, one
    /// more with each update that changes anything besides the metadata and the status.
    fn has_generation(&self) -> bool {
        false
    }

    /// All that is wrong with a name of the kind; an empty list for a valid one.
    fn name_errors(&self, name: &str) -> Vec<String> {
        object_model::names::dns_subdomain(name)
    }

    /// Whether a PUT may leave out the version that it replaces.
    fn takes_unversioned_updates(&self) -> bool {
        true
    }

    /// Whether a PUT makes the object if it is not there.
    fn is_created_by_updates(&self) -> bool {
        false
    }

    /// The `autoscaling/v1` Scale of an object; `None` for kinds without that sub-resource.
    fn scale(&self, _object: &Value) -> Option<Value> {
        None
    }

    /// Takes over what an updated Scale asks for; returns all that is wrong with the Scale.
    fn set_scale(&self, _object: &mut Value, _scale: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Chooses addresses, ports and the like that the user left to the cluster.
    fn allocate(
        &self,
        _object: &mut Value,
        _old: Option<&Value>,
        _taken: &dyn AllocationLookup,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// The allocations that the object holds.
    fn allocations(&self, _object: &Value) -> Vec<Allocation> {
        Vec::new()
    }

    /// All that is wrong with a new object, its metadata (name, labels, annotations, owner
    /// references, finalizers) included: [`metadata::validate`](crate::validation::metadata::validate).
    fn validate_create(&self, object: &Value) -> Vec<FieldError>;

    /// All that is wrong with a changed object, labels, annotations, owner references and
    /// finalizers included. That name, namespace and uid stay is the pipeline's business.
    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError>;

    /// All that is wrong with a changed status.
    fn validate_status_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Advice on an object that is accepted all the same.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// What every client of the kind is told: that it is deprecated, and what is there instead.
    fn deprecation(&self) -> Option<&str> {
        None
    }

    /// Columns of the table, without those that every kind has in the same way.
    fn columns(&self) -> Vec<Column<'_>>;

    /// The cells of one row, in the order of the columns.
    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell>;

    /// The rank of an object's row in the table of a list; objects of the same rank are listed by name.
    fn row_rank(&self, _object: &Value) -> i64 {
        0
    }

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
    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&[])
    }

    /// The grace period, in seconds, that a deletion gets when `asked` for that many (or for
    /// nothing in particular); 0 removes the object at once (all kinds but pods, and pods that no
    /// node has yet or that have finished).
    fn grace(&self, _object: &Value, _asked: Option<i64>) -> i64 {
        0
    }

    /// Whether a deletion that says nothing about dependents leaves them behind.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// What a client is told whose deletion says nothing about dependents.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    /// Finalizers that every new object of the kind gets.
    fn initial_finalizers(&self) -> &'static [&'static str] {
        &[]
    }
}
