//! The operations of the server: one for each verb of each kind and sub-resource. Both OpenAPI
//! versions are written from this list.

use resource_kinds::{KindInfo, Scope, Subresource, Verb};

/// The action of an operation; `x-kubernetes-action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KubernetesAction {
    List,
    Create,
    DeleteCollection,
    Get,
    Replace,
    Patch,
    Delete,
    /// A stream such as `exec`, in both directions.
    Connect,
    /// Requests with one method that are forwarded (`proxy`).
    Pass(ProxyMethod),
    /// Changes of one object, at the deprecated path.
    Watch,
    /// Changes of a collection, at the deprecated path.
    WatchList,
}

/// The method of forwarded requests: in lower case, and in the form for operation ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyMethod {
    method: &'static str,
    id_verb: &'static str,
}

const PASSED: [ProxyMethod; 7] = [
    ProxyMethod::by("delete", "connectDelete"),
    ProxyMethod::by("get", "connectGet"),
    ProxyMethod::by("head", "connectHead"),
    ProxyMethod::by("options", "connectOptions"),
    ProxyMethod::by("patch", "connectPatch"),
    ProxyMethod::by("post", "connectPost"),
    ProxyMethod::by("put", "connectPut"),
];

impl ProxyMethod {
    const fn by(method: &'static str, id_verb: &'static str) -> Self {
        Self { method, id_verb }
    }
}

impl KubernetesAction {
    /// The value of `x-kubernetes-action`.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Create => "post",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::Replace => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Connect | Self::Pass(_) => "connect",
            Self::Watch => "watch",
            Self::WatchList => "watchlist",
        }
    }

    /// In lower case.
    pub fn method(self) -> &'static str {
        match self {
            Self::List | Self::Get | Self::Connect | Self::Watch | Self::WatchList => "get",
            Self::Pass(passed) => passed.method,
            Self::Create => "post",
            Self::DeleteCollection | Self::Delete => "delete",
            Self::Replace => "put",
            Self::Patch => "patch",
        }
    }

    /// The first word of the operation's id.
    pub fn id_verb(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Create => "create",
            Self::DeleteCollection | Self::Delete => "delete",
            Self::Get => "read",
            Self::Replace => "replace",
            Self::Patch => "patch",
            Self::Connect => "connectGet",
            Self::Pass(passed) => passed.id_verb,
            Self::Watch | Self::WatchList => "watch",
        }
    }

    /// The names of the query parameters, without `pretty`.
    pub fn query_parameters(self) -> &'static [&'static str] {
        const SELECTION: &[&str] = &[
            "allowWatchBookmarks",
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "shardSelector",
            "timeoutSeconds",
            "watch",
        ];
        match self {
            Self::List | Self::Watch | Self::WatchList => SELECTION,
            Self::Create | Self::Replace => &["dryRun", "fieldManager", "fieldValidation"],
            Self::Patch => &["dryRun", "fieldManager", "fieldValidation", "force"],
            Self::Delete => &[
                "dryRun",
                "gracePeriodSeconds",
                "orphanDependents",
                "propagationPolicy",
            ],
            Self::DeleteCollection => &[
                "continue",
                "dryRun",
                "fieldSelector",
                "gracePeriodSeconds",
                "labelSelector",
                "limit",
                "orphanDependents",
                "propagationPolicy",
                "resourceVersion",
                "resourceVersionMatch",
                "shardSelector",
                "timeoutSeconds",
            ],
            Self::Get | Self::Connect | Self::Pass(_) => &[],
        }
    }
}

/// A group, a version and a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gvk<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
}

/// One method on one path.
#[derive(Clone, Debug)]
pub(crate) struct Operation<'a> {
    pub action: KubernetesAction,
    pub id: String,
    /// The kind of the request and response bodies.
    pub gvk: Gvk<'a>,
    pub list_kind: &'a str,
    /// The last path segment of a sub-resource; empty for the object itself.
    pub subresource: &'static str,
}

/// A path and its operations.
#[derive(Clone, Debug)]
pub(crate) struct Path<'a> {
    pub path: String,
    /// Whether the path has the parameter `{namespace}`.
    pub in_namespace: bool,
    /// Whether the path has the parameter `{name}`.
    pub named: bool,
    /// Whether the path has the parameter `{path}`, which is the path for the backend.
    pub onwards: bool,
    pub operations: Vec<Operation<'a>>,
}

/// All paths of a kind.
pub(crate) fn paths<'a>(info: &KindInfo<'a>) -> Vec<Path<'a>> {
    let mut paths = Paths::new(info);
    paths.add_collection();
    paths.add_object();
    if info.verbs.contains(&Verb::Watch) {
        paths.add_watches();
    }
    for part in info.subresources {
        match part.name {
            "proxy" => paths.add_proxy(part),
            _ => paths.add_subresource(part),
        }
    }
    paths.all
}

/// The paths of one kind.
struct Paths<'i, 'a> {
    info: &'i KindInfo<'a>,
    namespaced: bool,
    /// The path of the group and version.
    base: String,
    collection: String,
    all: Vec<Path<'a>>,
}

impl<'i, 'a> Paths<'i, 'a> {
    fn new(info: &'i KindInfo<'a>) -> Self {
        let namespaced = info.scope == Scope::Namespaced;
        let base = base_path(info.group, info.version);
        let collection = match namespaced {
            true => format!("{base}/namespaces/{{namespace}}/{}", info.plural),
            false => format!("{base}/{}", info.plural),
        };
        Self {
            info,
            namespaced,
            base,
            collection,
            all: Vec::new(),
        }
    }

    /// The kind in ids of operations: `NamespacedPod`, `Node`.
    fn subject(&self) -> String {
        let scope = if self.namespaced { "Namespaced" } else { "" };
        format!("{scope}{}", self.info.kind)
    }

    /// An operation on the objects themselves.
    fn operation(&self, action: KubernetesAction, subject: &str) -> Operation<'a> {
        let gvk = Gvk {
            group: self.info.group,
            version: self.info.version,
            kind: self.info.kind,
        };
        self.operation_on(action, subject, "", gvk)
    }

    fn operation_on(
        &self,
        action: KubernetesAction,
        subject: &str,
        subresource: &'static str,
        gvk: Gvk<'a>,
    ) -> Operation<'a> {
        let title = group_title(self.info.group, self.info.version);
        let middle = match action {
            KubernetesAction::DeleteCollection => "Collection",
            _ => "",
        };
        let id = match action {
            // In these ids the method follows the group.
            KubernetesAction::Connect | KubernetesAction::Pass(_) => {
                let method = action.id_verb().trim_start_matches("connect");
                format!("connect{title}{method}{subject}")
            }
            _ => format!("{}{title}{middle}{subject}", action.id_verb()),
        };
        Operation {
            action,
            id,
            gvk,
            list_kind: self.info.list_kind,
            subresource,
        }
    }

    /// The operations for the verbs of the kind.
    fn supported(&self, actions: &[(Verb, KubernetesAction)]) -> Vec<Operation<'a>> {
        let subject = self.subject();
        actions
            .iter()
            .filter(|(verb, _)| self.info.verbs.contains(verb))
            .map(|(_, action)| self.operation(*action, &subject))
            .collect()
    }

    fn add(&mut self, path: String, in_namespace: bool, named: bool, all: Vec<Operation<'a>>) {
        if !all.is_empty() {
            self.all.push(Path {
                onwards: path.ends_with("/{path}"),
                path,
                in_namespace,
                named,
                operations: all,
            });
        }
    }

    fn add_collection(&mut self) {
        if self.namespaced && self.info.verbs.contains(&Verb::List) {
            let subject = format!("{}ForAllNamespaces", self.info.kind);
            let list = self.operation(KubernetesAction::List, &subject);
            let path = format!("{}/{}", self.base, self.info.plural);
            self.add(path, false, false, vec![list]);
        }
        let operations = self.supported(COLLECTION_ACTIONS);
        self.add(self.collection.clone(), self.namespaced, false, operations);
    }

    fn add_object(&mut self) {
        let path = format!("{}/{{name}}", self.collection);
        let operations = self.supported(OBJECT_ACTIONS);
        self.add(path, self.namespaced, true, operations);
    }

    /// The deprecated paths of watches.
    fn add_watches(&mut self) {
        let watch = format!("{}/watch", self.base);
        if self.namespaced {
            let subject = format!("{}ListForAllNamespaces", self.info.kind);
            let list = self.operation(KubernetesAction::WatchList, &subject);
            let path = format!("{watch}/{}", self.info.plural);
            self.add(path, false, false, vec![list]);
        }
        let collection = format!("{watch}{}", &self.collection[self.base.len()..]);
        let subject = self.subject();
        let list = self.operation(KubernetesAction::WatchList, &format!("{subject}List"));
        self.add(collection.clone(), self.namespaced, false, vec![list]);
        let one = self.operation(KubernetesAction::Watch, &subject);
        let path = format!("{collection}/{{name}}");
        self.add(path, self.namespaced, true, vec![one]);
    }

    /// Subject and kind of the operations on a sub-resource.
    fn subresource(&self, part: &Subresource) -> (String, Gvk<'a>) {
        let subject = format!("{}{}", self.subject(), title_case(part.name));
        let (group, version, kind) = self.info.body(part);
        let gvk = Gvk {
            group,
            version,
            kind,
        };
        (subject, gvk)
    }

    fn add_proxy(&mut self, part: &Subresource) {
        let (subject, gvk) = self.subresource(part);
        for (rest, suffix) in [("", ""), ("/{path}", "WithPath")] {
            let path = format!("{}/{{name}}/proxy{rest}", self.collection);
            let subject = format!("{subject}{suffix}");
            let operations = PASSED.iter().map(|passed| {
                let action = KubernetesAction::Pass(*passed);
                self.operation_on(action, &subject, part.name, gvk)
            });
            let operations = operations.collect();
            self.add(path, self.namespaced, true, operations);
        }
    }

    fn add_subresource(&mut self, part: &Subresource) {
        let (subject, gvk) = self.subresource(part);
        let operations = subresource_actions(part, gvk.kind)
            .into_iter()
            .map(|action| self.operation_on(action, &subject, part.name, gvk))
            .collect();
        let path = format!("{}/{{name}}/{}", self.collection, part.name);
        self.add(path, self.namespaced, true, operations);
    }
}

const COLLECTION_ACTIONS: &[(Verb, KubernetesAction)] = &[
    (Verb::List, KubernetesAction::List),
    (Verb::Create, KubernetesAction::Create),
    (Verb::DeleteCollection, KubernetesAction::DeleteCollection),
];

const OBJECT_ACTIONS: &[(Verb, KubernetesAction)] = &[
    (Verb::Get, KubernetesAction::Get),
    (Verb::Update, KubernetesAction::Replace),
    (Verb::Patch, KubernetesAction::Patch),
    (Verb::Delete, KubernetesAction::Delete),
];

fn subresource_actions(part: &Subresource, body: &str) -> Vec<KubernetesAction> {
    // Kinds such as PodExecOptions are the query parameters of a stream, not a body.
    if body.ends_with("Options") {
        return vec![KubernetesAction::Connect];
    }
    let mut actions = Vec::new();
    for verb in part.verbs {
        actions.push(match verb {
            Verb::Get => KubernetesAction::Get,
            Verb::Update => KubernetesAction::Replace,
            Verb::Patch => KubernetesAction::Patch,
            Verb::Create => KubernetesAction::Create,
            Verb::Delete => KubernetesAction::Delete,
            Verb::DeleteCollection | Verb::List | Verb::Watch => continue,
        });
    }
    actions
}

/// `/api/v1` or `/apis/<group>/<version>`.
pub(crate) fn base_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    }
}

/// `AppsV1`, `RbacAuthorizationV1`, `CoreV1`.
fn group_title(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let words = group.split('.').chain([version]);
    words.map(title_case).collect()
}

fn title_case(word: &str) -> String {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}
