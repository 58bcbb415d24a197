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
    let namespaced = info.scope == Scope::Namespaced;
    let gvk = Gvk {
        group: info.group,
        version: info.version,
        kind: info.kind,
    };
    let base = base_path(info.group, info.version);
    let collection = if namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", info.plural)
    } else {
        format!("{base}/{}", info.plural)
    };
    let scope = if namespaced { "Namespaced" } else { "" };
    let operation =
        |action: KubernetesAction, subject: String, subresource: &'static str, gvk: Gvk<'a>| {
            let title = group_title(info.group, info.version);
            let middle = if action == KubernetesAction::DeleteCollection {
                "Collection"
            } else {
                ""
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
                list_kind: info.list_kind,
                subresource,
            }
        };
    let on_object = |actions: &[(Verb, KubernetesAction)]| -> Vec<Operation<'a>> {
        actions
            .iter()
            .filter(|(verb, _)| info.verbs.contains(verb))
            .map(|(_, action)| operation(*action, format!("{scope}{}", info.kind), "", gvk))
            .collect()
    };
    let mut all = Vec::new();
    let mut add = |path: String, in_namespace, named, operations: Vec<Operation<'a>>| {
        if !operations.is_empty() {
            all.push(Path {
                onwards: path.ends_with("/{path}"),
                path,
                in_namespace,
                named,
                operations,
            });
        }
    };
    if namespaced && info.verbs.contains(&Verb::List) {
        let everywhere = format!("{}ForAllNamespaces", info.kind);
        let list = operation(KubernetesAction::List, everywhere, "", gvk);
        add(format!("{base}/{}", info.plural), false, false, vec![list]);
    }
    add(
        collection.clone(),
        namespaced,
        false,
        on_object(COLLECTION_ACTIONS),
    );
    add(
        format!("{collection}/{{name}}"),
        namespaced,
        true,
        on_object(OBJECT_ACTIONS),
    );
    if info.verbs.contains(&Verb::Watch) {
        let watch = format!("{base}/watch");
        let below = &collection[base.len()..];
        let one = |action, subject: String| vec![operation(action, subject, "", gvk)];
        if namespaced {
            let everywhere = format!("{}ListForAllNamespaces", info.kind);
            let path = format!("{watch}/{}", info.plural);
            add(
                path,
                false,
                false,
                one(KubernetesAction::WatchList, everywhere),
            );
        }
        let list = one(
            KubernetesAction::WatchList,
            format!("{scope}{}List", info.kind),
        );
        add(format!("{watch}{below}"), namespaced, false, list);
        let named = one(KubernetesAction::Watch, format!("{scope}{}", info.kind));
        add(format!("{watch}{below}/{{name}}"), namespaced, true, named);
    }
    for part in info.subresources {
        let subject = format!("{scope}{}{}", info.kind, title_case(part.name));
        let (group, version, kind) = info.body(part);
        let gvk = Gvk {
            group,
            version,
            kind,
        };
        if part.name == "proxy" {
            for (more, word) in [("", ""), ("/{path}", "WithPath")] {
                let path = format!("{collection}/{{name}}/proxy{more}");
                let operations = PASSED.iter().map(|passed| {
                    let subject = format!("{subject}{word}");
                    operation(KubernetesAction::Pass(*passed), subject, part.name, gvk)
                });
                add(path, namespaced, true, operations.collect());
            }
            continue;
        }
        let operations = subresource_actions(part, kind)
            .into_iter()
            .map(|action| operation(action, subject.clone(), part.name, gvk))
            .collect();
        add(
            format!("{collection}/{{name}}/{}", part.name),
            namespaced,
            true,
            operations,
        );
    }
    all
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
