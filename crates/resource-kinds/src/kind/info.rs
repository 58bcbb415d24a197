//! The fixed properties of a kind, and short constructors for them.

use json_tree::Value;

use crate::json::decode::{self, DecodeError};

/// The scope of the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A verb of the API on a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// A part of an object, or an action on it, with its own path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The path segment, for instance `status`, `scale`, `log`.
    pub name: &'static str,
    /// The kind of the request and response body.
    pub body: Body,
    /// The supported verbs.
    pub verbs: &'static [Verb],
}

/// The kind of a sub-resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The object itself, as for `status`.
    Object,
    /// An object of another kind, as for `scale`.
    Other {
        group: &'static str,
        version: &'static str,
        /// For instance `Scale`.
        kind: &'static str,
    },
}

/// A list of words: static for a built-in kind, owned for a custom kind.
#[derive(Clone, Copy, Debug)]
pub enum Words<'a> {
    /// The words of a built-in kind.
    Fixed(&'static [&'static str]),
    /// The words of a custom kind.
    Owned(&'a [String]),
}

impl<'a> Words<'a> {
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let (fixed, owned): (&'static [&'static str], &'a [String]) = match self {
            Self::Fixed(words) => (words, &[]),
            Self::Owned(words) => (&[], words),
        };
        let fixed = fixed.iter().copied();
        fixed.chain(owned.iter().map(String::as_str))
    }

    pub fn to_vec(self) -> Vec<&'a str> {
        self.iter().collect()
    }

    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    pub fn contains(self, word: &str) -> bool {
        self.iter().any(|item| item == word)
    }
}

/// The fixed properties of a kind. The texts of a custom kind live as long as the kind.
#[derive(Clone, Copy, Debug)]
pub struct KindInfo<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Served version, for instance `v1`.
    pub version: &'a str,
    /// Kind, for instance `StatefulSet`.
    pub kind: &'a str,
    /// Kind of lists, for instance `StatefulSetList`.
    pub list_kind: &'a str,
    /// Resource in paths, for instance `statefulsets`.
    pub plural: &'a str,
    /// Singular name for `kubectl`, for instance `statefulset`.
    pub singular: &'a str,
    /// Short names for `kubectl`, for instance `sts`.
    pub short_names: Words<'a>,
    /// Categories for `kubectl`, for instance `all`.
    pub categories: Words<'a>,
    /// Whether objects are in namespaces.
    pub scope: Scope,
    /// Verbs on the object itself; empty for a kind that is only the body of a sub-resource.
    pub verbs: &'static [Verb],
    /// Sub-resources. `status` and `scale` are generic; other sub-resources are routed by name.
    pub subresources: &'static [Subresource],
    /// Path segment of the storage prefix. Two kinds with an equal segment share their objects (core/v1 and
    /// events.k8s.io/v1 Event); the decoder of each kind converts.
    pub storage: &'a str,
    /// The rules of creation and update, such as the count in `metadata.generation`.
    pub writes: WriteRules,
}

/// The rules of writes to the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRules {
    /// Whether `metadata.generation` counts changes: 1 for a new object, and one more with each update that changes
    /// anything except the metadata and the status.
    pub has_generation: bool,
    /// Whether a PUT without a resource version is allowed.
    pub unconditional_update: bool,
    /// Whether a PUT creates an object that does not exist.
    pub create_on_update: bool,
    /// The finalizers of every new object.
    pub finalizers: &'static [&'static str],
}

impl WriteRules {
    /// The rules of most kinds.
    pub const ORDINARY: Self = Self {
        has_generation: false,
        unconditional_update: true,
        create_on_update: false,
        finalizers: &[],
    };
}

impl<'a> KindInfo<'a> {
    /// Group, version and kind of the body of a sub-resource.
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

    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|sub| sub.name == name)
    }

    /// Checks an object against the kind's type, and removes unknown fields.
    pub(crate) fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        decode::decode(&self.api_version(), self.kind, object)
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

/// All verbs of an ordinary kind.
pub const ALL: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];

/// The verbs of a kind whose objects clients cannot create.
pub const WITHOUT_CREATE: &[Verb] = match ALL.split_first() {
    Some((Verb::Create, others)) => others,
    _ => ALL,
};

/// The verbs of a sub-resource that is a part of an object.
pub const READ_WRITE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// The names of a kind; the other properties are derived from them.
pub(crate) struct Names {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) list_kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short: &'static [&'static str],
}

/// A namespaced kind with all verbs and no sub-resources.
pub(crate) const fn namespaced(names: Names) -> KindInfo<'static> {
    KindInfo {
        group: names.group,
        version: "v1",
        kind: names.kind,
        list_kind: names.list_kind,
        plural: names.plural,
        singular: names.singular,
        short_names: Words::Fixed(names.short),
        categories: Words::Fixed(&[]),
        scope: Scope::Namespaced,
        verbs: ALL,
        subresources: &[],
        storage: names.plural,
        writes: WriteRules::ORDINARY,
    }
}

/// A cluster-wide kind with all verbs and no sub-resources.
pub(crate) const fn cluster(names: Names) -> KindInfo<'static> {
    KindInfo {
        scope: Scope::Cluster,
        ..namespaced(names)
    }
}

/// The `status` of a kind.
pub const STATUS: Subresource = Subresource {
    name: "status",
    body: Body::Object,
    verbs: READ_WRITE,
};

/// The `scale` of a kind.
pub const SCALE: Subresource = Subresource {
    name: "scale",
    body: v1("autoscaling", "Scale"),
    verbs: READ_WRITE,
};

/// The `proxy` of a kind: requests to the pod, Service or node itself.
pub(crate) const fn proxy(kind: &'static str) -> Subresource {
    Subresource {
        name: "proxy",
        body: v1("", kind),
        verbs: &[
            Verb::Create,
            Verb::Delete,
            Verb::Get,
            Verb::Patch,
            Verb::Update,
        ],
    }
}

/// An action whose request body is an object of another kind.
pub(crate) const fn action(
    name: &'static str,
    group: &'static str,
    kind: &'static str,
) -> Subresource {
    Subresource {
        name,
        body: v1(group, kind),
        verbs: &[Verb::Create],
    }
}

/// A body of another kind, in version `v1`.
pub(crate) const fn v1(group: &'static str, kind: &'static str) -> Body {
    Body::Other {
        group,
        version: "v1",
        kind,
    }
}
