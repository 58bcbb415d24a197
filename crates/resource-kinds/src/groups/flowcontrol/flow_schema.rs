//! flowcontrol.apiserver.k8s.io/v1 FlowSchema.

use std::sync::LazyLock;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use super::{DANGLING, EXEMPT, GROUP, PRECEDENCE_DEFAULT, SCHEMAS, check_conditions, mandatory};
use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo, StatusUpdate, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct FlowSchema;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    subresources: &[STATUS],
    ..cluster(Names {
        group: GROUP,
        kind: "FlowSchema",
        list_kind: "FlowSchemaList",
        plural: SCHEMAS,
        singular: "flowschema",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column(
        "PriorityLevel",
        "Priority level of the requests that match.",
    ),
    table::column(
        "MatchingPrecedence",
        "Of the schemas that match, the lowest counts.",
    ),
    table::column(
        "DistinguisherMethod",
        "What tells the flows of the schema apart.",
    ),
    table::AGE,
    table::column(
        "MissingPL",
        "Whether the priority level is missing or broken.",
    ),
];

const PRECEDENCE_MAX: i64 = 10_000;
const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

/// The mandatory schemas, whose specs are fixed.
static FIXED: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let mut all = mandatory();
    all.retain(|object| object["kind"] == INFO.kind);
    all
});

impl Kind for FlowSchema {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        if matches!(spec["matchingPrecedence"].as_i64(), None | Some(0)) {
            parts::set(spec, "matchingPrecedence", PRECEDENCE_DEFAULT);
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }
}

impl Printer for FlowSchema {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let conditions = object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let dangling = conditions.find(|condition| condition["type"] == DANGLING);
        vec![
            table::name(object),
            table::text_or(&spec["priorityLevelConfiguration"]["name"], ""),
            json!(spec["matchingPrecedence"].as_i64().unwrap_or_default()),
            table::text_or(&spec["distinguisherMethod"]["type"], "<none>"),
            table::age(object, now),
            dangling.map_or(json!("?"), |condition| {
                table::text_or(&condition["status"], "")
            }),
        ]
    }

    /// Rows are in the order in which schemas are matched.
    fn row_rank(&self, object: &Value) -> i64 {
        object["spec"]["matchingPrecedence"]
            .as_i64()
            .unwrap_or_default()
    }
}

impl StatusUpdate for FlowSchema {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        check_conditions(object)
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let name = root.get_path("metadata.name");
    let spec = root.get("spec");
    let mut errors = Vec::new();
    let precedence = spec.get("matchingPrecedence");
    let number = precedence.int().unwrap_or_default();
    if number <= 0 {
        errors.push(precedence.invalid("must be a positive value"));
    }
    if number > PRECEDENCE_MAX {
        let text = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.push(precedence.invalid(text));
    }
    if number == 1 && name.text() != EXEMPT {
        let text = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(precedence.invalid(text));
    }
    let method = spec.get("distinguisherMethod");
    let kind = method.get("type");
    if method.is_set() && !matches!(kind.text(), "ByNamespace" | "ByUser") {
        errors.push(kind.not_supported(&["ByNamespace", "ByUser"]));
    }
    let level = spec.get_path("priorityLevelConfiguration.name");
    if level.is_empty() {
        errors.push(level.required("must reference a priority level"));
    } else {
        errors.check_text(&level, names::dns_subdomain);
    }
    for rule in spec.get("rules").items() {
        check_rule(&rule, &mut errors);
    }
    let same_name = |fixed: &&Value| fixed["metadata"]["name"] == name.text();
    if FIXED
        .iter()
        .find(same_name)
        .is_some_and(|fixed| fixed["spec"] != *spec.value)
    {
        let text = format!("spec of '{}' must equal the fixed value", name.text());
        errors.push(spec.invalid(text));
    }
    errors
}

fn check_rule(rule: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let subjects = rule.get("subjects");
    if subjects.is_empty() {
        errors.push(subjects.required("subjects must contain at least one value"));
    }
    for subject in subjects.items() {
        check_subject(&subject, errors);
    }
    let (resources, paths) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        let text = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(rule.required(text));
    }
    for rule in resources.items() {
        check_resource_rule(&rule, errors);
    }
    for rule in paths.items() {
        check_path_rule(&rule, errors);
    }
}

fn check_subject(subject: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    const KINDS: [(&str, &str); 3] = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let kind = subject.get("kind");
    let Some((kind, subject_field)) = KINDS.into_iter().find(|(name, _)| *name == kind.text())
    else {
        errors.push(kind.not_supported(&["Group", "ServiceAccount", "User"]));
        return;
    };
    let named = subject.get_path(subject_field);
    if !named.is_set() {
        let text = format!("{subject_field} is required when subject kind is '{kind}'");
        errors.push(named.required(&text));
    } else if kind == "ServiceAccount" {
        check_account(&named, errors);
    } else if named.get("name").is_empty() {
        errors.push(named.get("name").required(""));
    }
    for (other, field) in KINDS
        .into_iter()
        .filter(|(_, field)| *field != subject_field)
    {
        let at = subject.get_path(field);
        if at.is_set() {
            let text = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.push(at.forbidden(text));
        }
    }
}

fn check_account(account: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let (name, namespace) = (account.get("name"), account.get("namespace"));
    if name.text() != "*" {
        errors.check_required_text(&name, names::dns_subdomain);
    }
    if namespace.is_empty() {
        errors.push(namespace.required("must specify namespace for service account"));
    } else {
        errors.check_text(&namespace, names::dns_label);
    }
}

fn has_wildcard(list: &Field<'_, '_>) -> bool {
    list.items().any(|item| item.text() == "*")
}

/// Checks that a wildcard, if present, is the only item.
fn check_wildcard(list: &Field<'_, '_>, what: &str, errors: &mut Vec<FieldError>) {
    if list.len() > 1 && has_wildcard(list) {
        let text = format!("if '*' is present, must not specify other {what}");
        errors.push(list.invalid(text));
    }
}

fn check_verbs(rule: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let verbs = rule.get("verbs");
    if verbs.is_empty() {
        errors.push(verbs.required("verbs must contain at least one value"));
    } else if !has_wildcard(&verbs) && !verbs.items().all(|verb| VERBS.contains(&verb.text())) {
        errors.push(verbs.not_supported(VERBS));
    }
    check_wildcard(&verbs, "verbs", errors);
}

fn check_resource_rule(rule: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    check_verbs(rule, errors);
    for (field, one, many) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let list = rule.get_path(field);
        if list.is_empty() {
            let text = format!("resource rules must supply at least one {one}");
            errors.push(list.required(&text));
        }
        check_wildcard(&list, many, errors);
    }
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() && !rule.get("clusterScope").is_true() {
        let text = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(namespaces.required(text));
    } else if has_wildcard(&namespaces) {
        check_wildcard(&namespaces, "namespaces", errors);
    } else {
        for namespace in namespaces.items() {
            for clause in names::dns_label(namespace.text()) {
                let text =
                    format!("each member of this list must be '*' or a DNS-1123 label; {clause}");
                errors.push(namespace.invalid(text));
            }
        }
    }
}

fn check_path_rule(rule: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    check_verbs(rule, errors);
    let paths = rule.get("nonResourceURLs");
    if paths.is_empty() {
        errors.push(paths.required("nonResourceURLs must contain at least one value"));
    } else if has_wildcard(&paths) {
        check_wildcard(&paths, "non-resource URLs", errors);
    } else {
        for path in paths.items() {
            errors.extend(path_refusal(path.text()).map(|text| path.invalid(text)));
        }
    }
}

/// The error for a path; `None` if the path is valid.
fn path_refusal(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::flowcontrol::suggested;

    fn object(change: impl FnOnce(&mut Value)) -> Value {
        let mut schema = json!({"metadata": {"name": "a"}, "spec": {
            "priorityLevelConfiguration": {"name": "l"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "*"}}],
                "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"],
                    "namespaces": ["default"]}],
            }],
        }});
        change(&mut schema);
        let mut schema = FlowSchema.decode(schema).unwrap();
        FlowSchema.default(&mut schema);
        schema
    }

    fn refusals(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let errors = FlowSchema.validate_create(&object(change));
        errors.iter().map(ToString::to_string).collect()
    }

    fn rule(field: &str, value: Value) -> Vec<String> {
        refusals(|schema| schema["spec"]["rules"][0]["resourceRules"][0][field] = value)
    }

    /// findings C52
    #[test]
    fn a_schema_has_a_precedence_and_a_level() {
        let created = object(|_| ());
        assert_eq!(created["spec"]["matchingPrecedence"], 1000);
        assert_eq!(refusals(|_| ()), [""; 0]);
        for (number, text) in [
            (-1, "-1: must be a positive value"),
            (10_001, "10001: must not be greater than 10000"),
            (
                1,
                "1: only the schema named 'exempt' may have matchingPrecedence 1",
            ),
        ] {
            let errors = refusals(|schema| schema["spec"]["matchingPrecedence"] = json!(number));
            assert_eq!(
                errors,
                [format!("spec.matchingPrecedence: Invalid value: {text}")]
            );
        }
        let errors = refusals(|schema| schema["spec"]["priorityLevelConfiguration"] = json!({}));
        assert_eq!(
            errors,
            [
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level"
            ]
        );
        let errors =
            refusals(|schema| schema["spec"]["distinguisherMethod"] = json!({"type": "x"}));
        assert_eq!(
            errors,
            [
                "spec.distinguisherMethod.type: Unsupported value: \"x\": supported values: \
              \"ByNamespace\", \"ByUser\""
            ]
        );
    }

    /// findings C52
    #[test]
    fn the_rules_of_a_schema_say_who_and_what() {
        let subject = |value: Value| {
            refusals(|schema| schema["spec"]["rules"][0]["subjects"] = json!([value]))
        };
        let at = "spec.rules[0].subjects[0]";
        assert_eq!(
            subject(json!({"kind": "User", "group": {"name": "g"}})),
            [
                format!("{at}.user: Required value: user is required when subject kind is 'User'"),
                format!(
                    "{at}.group: Forbidden: group is forbidden when subject kind is not 'Group'"
                ),
            ]
        );
        assert_eq!(
            subject(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*"}})),
            [format!(
                "{at}.serviceAccount.namespace: Required value: must specify namespace for \
                 service account"
            )]
        );
        assert_eq!(subject(json!({"kind": "Robot"})).len(), 1);
        let at = "spec.rules[0].resourceRules[0]";
        for (field, value, text) in [
            (
                "verbs",
                json!(["*", "get"]),
                "if '*' is present, must not specify other verbs",
            ),
            ("verbs", json!(["fly"]), "Unsupported value"),
            (
                "apiGroups",
                json!([]),
                "resource rules must supply at least one api group",
            ),
            (
                "resources",
                json!(["*", "a"]),
                "if '*' is present, must not specify other resources",
            ),
            (
                "namespaces",
                json!([]),
                "resource rules that are not cluster scoped must supply at least one namespace",
            ),
            (
                "namespaces",
                json!(["A"]),
                "each member of this list must be '*' or a DNS-1123 label; ",
            ),
        ] {
            let errors = rule(field, value);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(
                errors[0].starts_with(&format!("{at}.{field}")),
                "{errors:?}"
            );
            assert!(errors[0].contains(text), "{errors:?}");
        }
    }

    /// findings C52
    #[test]
    fn paths_end_in_a_wildcard_if_they_have_one() {
        for (path, text) in [
            ("a", "must start with slash"),
            ("/a b", "must not contain white-space"),
            ("/a//b", "must not contain double slash"),
            ("/hea*", "wildcard can only do suffix matching"),
            ("/a/*/b", "wildcard can only do suffix matching"),
        ] {
            let rules = json!([{"verbs": ["get"], "nonResourceURLs": [path]}]);
            let errors = refusals(|schema| schema["spec"]["rules"][0]["nonResourceRules"] = rules);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].ends_with(text), "{errors:?}");
        }
        assert_eq!(path_refusal("/healthz/*"), None);
    }

    /// findings C51
    #[test]
    fn default_schemas_are_complete_and_the_mandatory_ones_fixed() {
        let all = mandatory().into_iter().chain(suggested());
        for schema in all.filter(|object| object["kind"] == "FlowSchema") {
            let mut decoded = FlowSchema.decode(schema.clone()).unwrap();
            FlowSchema.default(&mut decoded);
            assert_eq!(decoded["spec"], schema["spec"]);
            assert_eq!(FlowSchema.validate_create(&decoded), []);
        }
        for mut schema in FIXED.clone() {
            schema["spec"]["rules"][0]["resourceRules"][0]["verbs"] = json!(["get"]);
            let errors = FlowSchema.validate_update(&schema, &schema);
            assert!(
                errors[0]
                    .to_string()
                    .ends_with("must equal the fixed value")
            );
        }
    }

    /// findings C51
    #[test]
    fn a_row_shows_whether_the_level_is_missing() {
        let mut schema = object(|_| ());
        let row = FlowSchema.row(&schema, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!("l"), json!(1000), json!("<none>")]);
        assert_eq!(row[5], "?");
        schema["status"] = json!({"conditions": [{"type": DANGLING, "status": "True"}]});
        assert_eq!(FlowSchema.row(&schema, Timestamp::UNIX_EPOCH)[5], "True");
        let twice = json!({"status": {"conditions": [{"type": "A"}, {"type": "A"}]}});
        let errors = FlowSchema.validate_status_update(&twice, &schema);
        assert_eq!(
            errors[0].to_string(),
            "status.conditions[1].type: Duplicate value: \"A\""
        );
    }
}
