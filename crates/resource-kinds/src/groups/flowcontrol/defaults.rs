//! The default FlowSchemas and priority levels. Mandatory objects have fixed specs; users may change suggested
//! objects.

use json_tree::{Value, json};

use super::{CATCH_ALL, EXEMPT, GROUP};

/// The annotation that allows the server to correct the spec of a default object.
pub const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// The queue length of the default levels.
const QUEUE_LENGTH: i64 = 50;

const ALL_GROUPS: &str = "*";
const KUBE_SYSTEM: &str = "kube-system";
const NODES: &[Subject] = &[Subject::Group("system:nodes")];
const EVERYBODY: &[Subject] = &[
    Subject::Group("system:unauthenticated"),
    Subject::Group("system:authenticated"),
];

/// A limited level: name, shares, lendable percentage, number of queues, and number of queues in a hand. A level
/// without queues rejects requests.
struct Level(&'static str, i64, i64, Option<(i64, i64)>);

const CATCH_ALL_LEVEL: Level = Level(CATCH_ALL, 5, 0, None);

const SUGGESTED_LEVELS: &[Level] = &[
    Level("system", 30, 33, Some((64, 6))),
    Level("node-high", 40, 25, Some((64, 6))),
    Level("leader-election", 10, 0, Some((16, 4))),
    Level("workload-high", 40, 50, Some((128, 6))),
    Level("workload-low", 100, 90, Some((128, 6))),
    Level("global-default", 20, 50, Some((128, 6))),
];

#[derive(Clone, Copy)]
enum Subject {
    User(&'static str),
    Group(&'static str),
    /// Every service account of a namespace.
    AccountsOf(&'static str),
}

#[derive(Clone, Copy)]
enum Rules {
    /// Every request.
    Everything,
    /// GET requests for these paths.
    Get(&'static [&'static str]),
    /// Verbs, group and resources in all namespaces; `true` includes requests without a namespace.
    Resources(
        &'static [(
            &'static [&'static str],
            &'static str,
            &'static [&'static str],
            bool,
        )],
    ),
}

struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: i64,
    by: &'static str,
    subjects: &'static [Subject],
    rules: Rules,
}

const EXEMPT_SCHEMA: Schema = Schema {
    name: EXEMPT,
    level: EXEMPT,
    precedence: 1,
    by: "",
    subjects: &[Subject::Group("system:masters")],
    rules: Rules::Everything,
};

const CATCH_ALL_SCHEMA: Schema = Schema {
    name: CATCH_ALL,
    level: CATCH_ALL,
    precedence: 10_000,
    by: "ByUser",
    subjects: EVERYBODY,
    rules: Rules::Everything,
};

const SUGGESTED_SCHEMAS: &[Schema] = &[
    Schema {
        name: "probes",
        level: EXEMPT,
        precedence: 2,
        by: "",
        subjects: EVERYBODY,
        rules: Rules::Get(&["/healthz", "/readyz", "/livez"]),
    },
    Schema {
        name: "system-leader-election",
        level: "leader-election",
        precedence: 100,
        by: "ByUser",
        subjects: &[
            Subject::User("system:kube-controller-manager"),
            Subject::User("system:kube-scheduler"),
            Subject::AccountsOf(KUBE_SYSTEM),
        ],
        rules: Rules::Resources(&[(
            &["get", "create", "update"],
            "coordination.k8s.io",
            &["leases"],
            false,
        )]),
    },
    Schema {
        name: "system-node-high",
        level: "node-high",
        precedence: 400,
        by: "ByUser",
        subjects: NODES,
        rules: Rules::Resources(&[
            (&["*"], "", &["nodes", "nodes/status"], true),
            (&["*"], "coordination.k8s.io", &["leases"], false),
        ]),
    },
    Schema {
        name: "system-nodes",
        level: "system",
        precedence: 500,
        by: "ByUser",
        subjects: NODES,
        rules: Rules::Everything,
    },
    Schema {
        name: "kube-controller-manager",
        level: "workload-high",
        precedence: 800,
        by: "ByNamespace",
        subjects: &[Subject::User("system:kube-controller-manager")],
        rules: Rules::Everything,
    },
    Schema {
        name: "kube-scheduler",
        level: "workload-high",
        precedence: 800,
        by: "ByNamespace",
        subjects: &[Subject::User("system:kube-scheduler")],
        rules: Rules::Everything,
    },
    Schema {
        name: "kube-system-service-accounts",
        level: "workload-high",
        precedence: 900,
        by: "ByNamespace",
        subjects: &[Subject::AccountsOf(KUBE_SYSTEM)],
        rules: Rules::Everything,
    },
    Schema {
        name: "service-accounts",
        level: "workload-low",
        precedence: 9000,
        by: "ByUser",
        subjects: &[Subject::Group("system:serviceaccounts")],
        rules: Rules::Everything,
    },
    Schema {
        name: "global-default",
        level: "global-default",
        precedence: 9900,
        by: "ByUser",
        subjects: EVERYBODY,
        rules: Rules::Everything,
    },
];

/// The mandatory objects; levels first.
pub fn mandatory() -> Vec<Value> {
    vec![
        object("PriorityLevelConfiguration", EXEMPT, exempt()),
        level(&CATCH_ALL_LEVEL),
        schema(&EXEMPT_SCHEMA),
        schema(&CATCH_ALL_SCHEMA),
    ]
}

/// The suggested objects; levels first.
pub fn suggested() -> Vec<Value> {
    let levels = SUGGESTED_LEVELS.iter().map(level);
    levels.chain(SUGGESTED_SCHEMAS.iter().map(schema)).collect()
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}},
        "spec": spec,
    })
}

fn exempt() -> Value {
    json!({
        "type": "Exempt",
        "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
    })
}

fn level(Level(name, shares, lendable, queues): &Level) -> Value {
    let response = match queues {
        None => json!({"type": "Reject"}),
        Some((queues, hand)) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH},
        }),
    };
    let limited = json!({
        "nominalConcurrencyShares": shares,
        "lendablePercent": lendable,
        "limitResponse": response,
    });
    let spec = json!({"type": "Limited", "limited": limited});
    object("PriorityLevelConfiguration", name, spec)
}

fn schema(schema: &Schema) -> Value {
    let subjects: Vec<Value> = schema.subjects.iter().map(subject).collect();
    let mut rule = json!({"subjects": subjects});
    match schema.rules {
        Rules::Everything => {
            rule["resourceRules"] = json!([resources(&["*"], ALL_GROUPS, &["*"], true)]);
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        }
        Rules::Get(paths) => {
            rule["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": paths}]);
        }
        Rules::Resources(all) => {
            let all = all
                .iter()
                .map(|(verbs, group, names, cluster)| resources(verbs, group, names, *cluster));
            rule["resourceRules"] = all.collect();
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": schema.level},
        "matchingPrecedence": schema.precedence,
        "rules": [rule],
    });
    if !schema.by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": schema.by});
    }
    object("FlowSchema", schema.name, spec)
}

fn subject(subject: &Subject) -> Value {
    match subject {
        Subject::User(name) => json!({"kind": "User", "user": {"name": name}}),
        Subject::Group(name) => json!({"kind": "Group", "group": {"name": name}}),
        Subject::AccountsOf(namespace) => json!({
            "kind": "ServiceAccount",
            "serviceAccount": {"namespace": namespace, "name": "*"},
        }),
    }
}

fn resources(verbs: &[&str], group: &str, names: &[&str], cluster: bool) -> Value {
    let mut rule = json!({
        "verbs": verbs,
        "apiGroups": [group],
        "resources": names,
        "namespaces": ["*"],
    });
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}
