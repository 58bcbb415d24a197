//! A simple model of the authorised and served requests. It is built from the parts of requests, not from paths.

pub const TEAM: &str = "team";

/// The server's result for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Forbidden,
    /// The path is not served.
    NoPath,
    /// The path does not support the method.
    NoMethod,
    /// The request reached a handler, whatever the response was.
    Served,
}

pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    /// Sub-resources and their verbs.
    pub parts: &'static [(&'static str, &'static [&'static str])],
}

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const STATUS: (&str, &[&str]) = ("status", &["get", "patch", "update"]);

const fn kind(
    group: &'static str,
    plural: &'static str,
    namespaced: bool,
    parts: &'static [(&'static str, &'static [&'static str])],
) -> Kind {
    Kind {
        group,
        version: "v1",
        plural,
        namespaced,
        verbs: ALL,
        parts,
    }
}

const fn review(group: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind {
        verbs: &["create"],
        ..kind(group, plural, namespaced, &[])
    }
}

pub const KINDS: &[Kind] = &[
    Kind {
        verbs: &[
            "create", "delete", "get", "list", "patch", "update", "watch",
        ],
        ..kind(
            "",
            "namespaces",
            false,
            &[STATUS, ("finalize", &["update"])],
        )
    },
    kind("", "nodes", false, &[STATUS]),
    kind("rbac.authorization.k8s.io", "clusterroles", false, &[]),
    kind("", "secrets", true, &[]),
    kind(
        "",
        "pods",
        true,
        &[STATUS, ("log", &["get"]), ("eviction", &["create"])],
    ),
    kind(
        "apps",
        "statefulsets",
        true,
        &[STATUS, ("scale", &["get", "patch", "update"])],
    ),
    review("authorization.k8s.io", "subjectaccessreviews", false),
    review("authorization.k8s.io", "localsubjectaccessreviews", true),
    review("authentication.k8s.io", "tokenreviews", false),
    Kind {
        verbs: &["get", "list"],
        ..kind("", "componentstatuses", false, &[])
    },
    Kind {
        version: "v1beta1",
        verbs: &["get", "list"],
        ..kind("metrics.k8s.io", "pods", true, &[])
    },
    Kind {
        verbs: &[],
        ..kind("", "unheardof", true, &[])
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    Plain,
    Watch,
    /// A field selector for the object with this name.
    Selects(&'static str),
}

/// The parts of a request.
pub struct RequestParts<'a> {
    pub kind: &'a Kind,
    pub method: &'static str,
    /// Whether the path has the deprecated form of watches.
    pub old_watch: bool,
    pub namespace: Option<&'static str>,
    pub name: Option<&'static str>,
    pub part: Option<&'a str>,
    pub query: Query,
}

/// The authorised request.
#[derive(Debug)]
pub struct Attributes<'a> {
    verb: &'static str,
    group: &'a str,
    resource: String,
    part: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl RequestParts<'_> {
    pub fn path(&self) -> String {
        let Kind {
            group,
            version,
            plural,
            ..
        } = self.kind;
        let mut path = match *group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        if self.old_watch {
            path.push_str("/watch");
        }
        if let Some(namespace) = self.namespace {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push('/');
        path.push_str(plural);
        for part in [self.name, self.part].into_iter().flatten() {
            path.push('/');
            path.push_str(part);
        }
        path.push_str("?dryRun=All&timeoutSeconds=1");
        match self.query {
            Query::Plain => {}
            Query::Watch => path.push_str("&watch=true"),
            Query::Selects(name) => {
                path.push_str(&format!("&fieldSelector=metadata.name%3D{name}"))
            }
        }
        path
    }

    fn attributes(&self) -> Attributes<'_> {
        let verb = match (self.method, self.name) {
            _ if self.old_watch => "watch",
            ("GET", None) if self.query == Query::Watch => "watch",
            ("GET", None) => "list",
            ("DELETE", None) => "deletecollection",
            ("GET" | "HEAD", _) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", _) => "delete",
            _ => "",
        };
        // A HEAD of a collection is a list.
        let verb = match (verb, self.name) {
            ("get", None) => "list",
            (verb, _) => verb,
        };
        let selected = match self.query {
            Query::Selects(name) if matches!(verb, "list" | "watch" | "deletecollection") => name,
            _ => "",
        };
        // The namespace of a Namespace object is its own name.
        let of_itself = (self.kind.plural == "namespaces")
            .then_some(self.name)
            .flatten();
        Attributes {
            verb,
            group: self.kind.group,
            resource: self.kind.plural.to_owned(),
            part: self.part.unwrap_or_default(),
            namespace: self.namespace.or(of_itself).unwrap_or_default(),
            name: self.name.unwrap_or(selected),
        }
    }

    pub fn expected(&self, user: &User) -> Outcome {
        let attributes = self.attributes();
        let outcome = match self.offered().as_slice() {
            [] => Outcome::NoPath,
            _ if self.method == "HEAD" => Outcome::NoMethod,
            _ if self.old_watch && self.method != "GET" => Outcome::NoMethod,
            offered if offered.contains(&attributes.verb) => Outcome::Served,
            _ => Outcome::NoMethod,
        };
        match user.may(&attributes) {
            true => outcome,
            false => Outcome::Forbidden,
        }
    }

    /// The verbs of the path.
    fn offered(&self) -> Vec<&'static str> {
        let fits = match (self.kind.namespaced, self.namespace) {
            (true, None) => self.name.is_none(),
            (true, Some(_)) | (false, None) => true,
            (false, Some(_)) => false,
        };
        if !fits {
            return Vec::new();
        }
        if let Some(subresource) = self.part {
            let mut parts = self.kind.parts.iter();
            let part = parts.find(|(name, _)| *name == subresource && !self.old_watch);
            return part.map_or_else(Vec::new, |(_, verbs)| verbs.to_vec());
        }
        let here: &[&str] = match (self.old_watch, self.name, self.namespace) {
            (true, _, _) => &["watch"],
            (_, Some(_), _) => &["delete", "get", "patch", "update"],
            (_, None, None) if self.kind.namespaced => &["list", "watch"],
            (_, None, _) => &["create", "deletecollection", "list", "watch"],
        };
        let all = self.kind.verbs.iter().copied();
        all.filter(|verb| here.contains(verb)).collect()
    }
}

/// A user with one rule.
pub struct User {
    pub name: &'static str,
    /// The namespace of the rule; `None` for all namespaces.
    pub namespace: Option<&'static str>,
    pub rule: Rule,
    pub how: How,
}

/// The role and the binding by which the user gets the rule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By a RoleBinding to a Role, or a ClusterRoleBinding to a ClusterRole.
    Bound,
    /// By a RoleBinding to a ClusterRole.
    BoundHere,
    /// By a ClusterRole that aggregates the rules of other ClusterRoles.
    Gathered,
    /// Not at all, because the role does not exist.
    Missing,
}

pub struct Rule {
    pub verbs: &'static [&'static str],
    pub groups: &'static [&'static str],
    pub resources: &'static [&'static str],
    pub names: &'static [&'static str],
}

impl User {
    pub fn may(&self, attributes: &Attributes<'_>) -> bool {
        let Rule {
            verbs,
            groups,
            resources,
            names,
        } = &self.rule;
        let has = |list: &[&str], one: &str| list.contains(&"*") || list.contains(&one);
        let resource = match attributes.part {
            "" => attributes.resource.clone(),
            part => format!("{}/{part}", attributes.resource),
        };
        let of_any = format!("*/{}", attributes.part);
        let of_any = !attributes.part.is_empty() && resources.contains(&of_any.as_str());
        self.how != How::Missing
            && self
                .namespace
                .is_none_or(|namespace| namespace == attributes.namespace)
            && has(verbs, attributes.verb)
            && has(groups, attributes.group)
            && (has(resources, &resource) || of_any)
            && (names.is_empty() || names.contains(&attributes.name))
    }
}

pub const fn user(
    name: &'static str,
    namespace: Option<&'static str>,
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    names: &'static [&'static str],
) -> User {
    User {
        name,
        namespace,
        rule: Rule {
            verbs,
            groups,
            resources,
            names,
        },
        how: How::Bound,
    }
}
