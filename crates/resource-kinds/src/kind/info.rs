//! Short ways to write down the facts of a kind.

use crate::kind::{Body, KindInfo, Scope, Subresource, Verb, Words};

/// All verbs, as ordinary kinds have them.
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

/// The verbs of a part of an object.
pub const READ_WRITE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// The names of a kind, from which the rest of its facts follow.
pub(crate) struct Names {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) list_kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short: &'static [&'static str],
}

/// A kind in a namespace, with all verbs and no sub-resources.
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
    }
}

/// A kind of the cluster as a whole, with all verbs and no sub-resources.
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

/// The `proxy` of a kind: requests to what listens there.
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

/// An action that is taken by sending an object of another kind.
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

/// A body of another kind, in its first version.
pub(crate) const fn v1(group: &'static str, kind: &'static str) -> Body {
    Body::Other {
        group,
        version: "v1",
        kind,
    }
}
