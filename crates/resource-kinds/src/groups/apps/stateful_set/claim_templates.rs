//! Edits of claim templates (rollouts.md C): who may edit them, and the return of a removed template.

use json_tree::Value;
use object_model::FieldError;

use crate::groups::stateful_set_policy::{
    ClaimRules, ClaimUpdates, GROUP, PLURAL, StatefulSetPolicy, in_force,
};
use crate::json::parts;
use crate::kind::Siblings;
use crate::validation::field::Field;
use crate::well_known::annotations::{CLAIM_UPDATES, REMOVED_CLAIM_TEMPLATES};

/// Maximum number of removed templates that a set keeps, and the maximum size of all.
const KEPT_MAX: usize = 16;
const KEPT_BYTES_MAX: usize = 64 << 10;

/// The opt-in of the set's own annotation.
pub(super) fn of_annotation(object: &Value) -> Option<ClaimUpdates> {
    let text = object["metadata"]["annotations"][CLAIM_UPDATES].as_str()?;
    ClaimUpdates::of(text)
}

/// The opt-in for a set: of the policy that is in force, or of the annotation. A policy that cannot be decoded opts
/// nobody in.
pub(super) fn opt_in(object: &Value, siblings: &Siblings<'_>) -> Option<ClaimUpdates> {
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    let policies = siblings(GROUP, PLURAL);
    let policies = policies.iter();
    let policies: Option<Vec<StatefulSetPolicy>> = policies
        .map(|policy| json_tree::from_value(Value::clone(policy)).ok())
        .collect();
    let map = |field: &str| json_tree::from_value(metadata[field].clone()).ok();
    let labels = map("labels");
    let policy = in_force(text("name"), labels.as_ref(), policies?);
    ClaimRules::of(policy.as_ref(), map("annotations").as_ref()).update
}

/// Whether the update edits the claim templates.
pub(super) fn are_edited(object: &Value, old: &Value) -> bool {
    object["spec"]["volumeClaimTemplates"] != old["spec"]["volumeClaimTemplates"]
}

fn templates(object: &Value) -> &[Value] {
    let templates = object["spec"]["volumeClaimTemplates"].as_array();
    templates.map(Vec::as_slice).unwrap_or_default()
}

fn name(template: &Value) -> &str {
    template["metadata"]["name"].as_str().unwrap_or_default()
}

fn has(templates: &[Value], sought: &str) -> bool {
    templates.iter().any(|template| name(template) == sought)
}

/// Keeps removed templates in an annotation of the set. A pod template that mounts the volume of a removed template
/// again, as after `kubectl rollout undo`, gets this template back in the same write (rollouts.md C7). The template stays
/// in the record, so that a file without it can be applied again.
pub(super) fn follow(object: &mut Value, old: &Value) {
    let mut kept = kept(old);
    let before = templates(old);
    // A template may have been edited since it returned.
    for kept in &mut kept {
        if let Some(template) = before.iter().find(|template| name(template) == name(kept)) {
            kept.clone_from(template);
        }
    }
    if !kept.is_empty() {
        let missing = missing_volumes(object);
        let is_mounted = |kept: &&Value| missing.iter().any(|missing| missing == name(kept));
        if let Some(spec) = parts::entry(object, "spec") {
            for template in kept.iter().filter(is_mounted) {
                parts::push(spec, "volumeClaimTemplates", template.clone());
            }
        }
    }
    let present = templates(object);
    let removed = before.iter();
    let removed = removed.filter(|template| !has(present, name(template)));
    let removed: Vec<Value> = removed.cloned().collect();
    kept.retain(|kept| !has(&removed, name(kept)));
    let record = record(kept.into_iter().chain(removed).collect());
    set_record(object, record);
}

/// Restores the record of the stored set.
pub(super) fn keep_record(object: &mut Value, old: &Value) {
    let record = old["metadata"]["annotations"][REMOVED_CLAIM_TEMPLATES].as_str();
    set_record(object, record.map(str::to_owned));
}

fn set_record(object: &mut Value, record: Option<String>) {
    let Some(record) = record else {
        return forget(object);
    };
    let annotations =
        parts::entry(object, "metadata").and_then(|metadata| parts::entry(metadata, "annotations"));
    if let Some(annotations) = annotations {
        parts::set(annotations, REMOVED_CLAIM_TEMPLATES, record);
    }
}

/// Removes the record: only the server writes it.
pub(super) fn forget(object: &mut Value) {
    let metadata = object.get_mut("metadata");
    if let Some(annotations) = metadata.and_then(|metadata| metadata.get_mut("annotations")) {
        parts::remove(annotations, REMOVED_CLAIM_TEMPLATES);
    }
}

/// The removed templates of a stored set, oldest first.
fn kept(old: &Value) -> Vec<Value> {
    let text = old["metadata"]["annotations"][REMOVED_CLAIM_TEMPLATES].as_str();
    let list = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let list = list.as_ref().and_then(Value::as_array);
    list.cloned().unwrap_or_default()
}

/// The text of the record. The oldest templates are left out if there are too many.
fn record(mut templates: Vec<Value>) -> Option<String> {
    loop {
        let count = templates.len();
        templates.drain(..count.saturating_sub(KEPT_MAX));
        if templates.is_empty() {
            return None;
        }
        let text = serde_json::to_string(&templates).ok()?;
        if text.len() <= KEPT_BYTES_MAX {
            return Some(text);
        }
        templates.remove(0);
    }
}

/// The names of volumes that the pod template mounts and that it does not have.
fn missing_volumes(object: &Value) -> Vec<String> {
    let pod = &object["spec"]["template"]["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&pod["volumes"]);
    let is_there = |wanted: &str| {
        has(templates(object), wanted) || volumes.iter().any(|volume| volume["name"] == *wanted)
    };
    let containers = ["initContainers", "containers"].map(|kind| list(&pod[kind]));
    let containers = containers.iter().flatten();
    let mounts = containers.flat_map(|container| {
        let kinds = ["volumeMounts", "volumeDevices"].map(|kind| list(&container[kind]));
        kinds.into_iter().flatten()
    });
    let names = mounts.filter_map(|mount| Some(mount["name"].as_str()?.to_owned()));
    names.filter(|name| !is_there(name)).collect()
}

/// Warnings about the edits that claims do not follow.
pub(super) fn warnings(object: &Value, old: &Value) -> Vec<String> {
    const KEPT: [(&str, &str); 4] = [
        ("storageClassName", "their StorageClass"),
        ("accessModes", "their access modes"),
        ("volumeMode", "their volume mode"),
        ("selector", "their volume"),
    ];
    let fields = Field::of(object, "spec.volumeClaimTemplates");
    let mut warnings = Vec::new();
    for template in fields.items() {
        let before = templates(old).iter();
        let mut before = before.filter(|before| name(before) == name(template.value));
        let Some(before) = before.next() else {
            continue;
        };
        for (field, what) in KEPT {
            if template.value["spec"][field] != before["spec"][field] {
                let path = template.get_path(&format!("spec.{field}")).path();
                warnings.push(format!("{path}: claims that exist keep {what}"));
            }
        }
    }
    let left = templates(old).iter();
    for template in left.filter(|template| !has(templates(object), name(template))) {
        warnings.push(format!(
            "spec.volumeClaimTemplates: the claims of the removed template {:?} are kept",
            name(template)
        ));
    }
    warnings
}

/// The errors of edited templates.
pub(super) fn validate(spec: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    for claim in spec.get("volumeClaimTemplates").items() {
        super::validate::claim_template(&claim, errors);
    }
    errors.extend(super::validate::claim_names(spec));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use json_tree::json;

    use super::*;
    use crate::groups::apps::StatefulSet;
    use crate::kind::{Kind, StatusUpdate};

    fn template(name: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}})
    }

    /// A stored set with these claim templates, whose container mounts these volumes.
    fn set(updates: Option<&str>, templates: &[&str], mounts: &[&str]) -> Value {
        let mounts = mounts.iter();
        let mounts: Vec<Value> = mounts
            .map(|name| json!({"name": name, "mountPath": format!("/{name}")}))
            .collect();
        let templates: Vec<Value> = templates.iter().map(|name| template(name)).collect();
        let mut object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "db", "namespace": "d", "uid": "u"},
            "spec": {"selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [{"name": "db", "image": "db", "volumeMounts": mounts}]}},
                "volumeClaimTemplates": templates}});
        if let Some(updates) = updates {
            object["metadata"]["annotations"] = json!({CLAIM_UPDATES: updates});
        }
        let mut object = StatefulSet.decode(object).unwrap();
        StatefulSet.default(&mut object);
        StatefulSet.prepare_create(&mut object);
        object
    }

    /// The set after the update, and the errors, with these policies in its namespace.
    fn updated(mut new: Value, old: &Value, policies: &[Value]) -> (Value, Vec<String>) {
        StatefulSet.prepare_update(&mut new, old);
        StatefulSet.default(&mut new);
        let siblings = |_: &str, plural: &str| match plural {
            PLURAL => policies.iter().cloned().map(Arc::new).collect(),
            _ => Vec::new(),
        };
        let errors = StatefulSet.validate_update_among(&new, old, &siblings);
        let errors = errors.iter().map(ToString::to_string).collect();
        (new, errors)
    }

    fn names(object: &Value) -> Vec<&str> {
        templates(object).iter().map(name).collect()
    }

    fn policy(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})
    }

    /// rollouts.md C1, C2, C11: the annotation or a policy of the namespace permits the edit.
    #[test]
    fn an_edit_needs_an_opt_in() {
        let old = set(None, &["data"], &["data"]);
        let edit = |updates| set(updates, &["data", "log"], &["data"]);
        let (_, refused) = updated(edit(None), &old, &[]);
        assert_eq!(refused.len(), 1);
        assert!(
            refused[0].starts_with("spec: Forbidden: updates to statefulset spec"),
            "{refused:?}"
        );
        for updates in ["InPlace", "NewOnly"] {
            assert_eq!(updated(edit(Some(updates)), &old, &[]).1, [""; 0]);
            let claims = json!({"update": updates});
            let all = policy("all", json!({"selector": {}, "claims": claims}));
            let policies = [all.clone()];
            assert_eq!(updated(edit(None), &old, &policies).1, [""; 0]);
            // The policy that names the set is in force, and it permits nothing.
            let named = policy("named", json!({"setRef": {"name": "db"}}));
            let policies = [all.clone(), named];
            assert_eq!(updated(edit(None), &old, &policies).1, refused);
            let unreadable = policy("unreadable", json!({"selector": 5}));
            let policies = [all, unreadable];
            assert_eq!(updated(edit(None), &old, &policies).1, refused);
        }
        // Other fields stay immutable.
        let mut other = edit(Some("InPlace"));
        other["spec"]["serviceName"] = json!("other");
        assert_eq!(updated(other, &old, &[]).1, refused);
    }

    /// rollouts.md C1: edited templates are checked as those of a new set.
    #[test]
    fn an_edited_template_is_checked() {
        let old = set(None, &["data"], &["data"]);
        let errors = |change: &dyn Fn(&mut Value)| {
            let mut new = set(Some("InPlace"), &["data", "log"], &["data"]);
            change(&mut new["spec"]);
            updated(new, &old, &[]).1
        };
        let path = "spec.volumeClaimTemplates[1]";
        let twice =
            errors(&|spec| spec["volumeClaimTemplates"][1]["metadata"]["name"] = json!("data"));
        assert_eq!(
            twice,
            [format!("{path}.metadata.name: Duplicate value: \"data\"")]
        );
        let modes =
            errors(&|spec| spec["volumeClaimTemplates"][1]["spec"]["accessModes"] = json!([]));
        assert_eq!(modes.len(), 1, "{modes:?}");
        assert!(
            modes[0].starts_with(&format!("{path}.spec.accessModes: Required value")),
            "{modes:?}"
        );
        // A removed template must not be mounted any more.
        let mounted = errors(&|spec| spec["volumeClaimTemplates"] = json!([]));
        assert_eq!(
            mounted,
            ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""]
        );
    }

    /// rollouts.md C7: an undo that mounts a removed volume gets its template back in the same write.
    #[test]
    fn an_undo_brings_a_removed_template_back() {
        let both = set(Some("InPlace"), &["data", "log"], &["data", "log"]);
        let one = set(Some("InPlace"), &["data"], &["data"]);
        let (stored, errors) = updated(one, &both, &[]);
        assert_eq!((names(&stored), errors), (vec!["data"], vec![]));
        assert_eq!(kept(&stored).iter().map(name).collect::<Vec<_>>(), ["log"]);
        // A client that sends no annotations does not remove the record.
        let mut labelled = stored.clone();
        labelled["metadata"]["annotations"] = json!({CLAIM_UPDATES: "InPlace"});
        let (stored, _) = updated(labelled, &stored, &[]);
        assert_eq!(kept(&stored).len(), 1);
        let mut undone = stored.clone();
        undone["spec"]["template"] = both["spec"]["template"].clone();
        let (undone, errors) = updated(undone, &stored, &[]);
        assert_eq!((names(&undone), errors), (vec!["data", "log"], vec![]));
        assert_eq!(templates(&undone)[1], templates(&both)[1]);
        // The file that mounts the volume and has no template can be applied again, also after other writes.
        let mut edited = undone.clone();
        edited["spec"]["volumeClaimTemplates"][1]["metadata"]["labels"] = json!({"a": "b"});
        let (edited, errors) = updated(edited, &undone, &[]);
        assert_eq!(errors, [""; 0]);
        let mut again = edited.clone();
        again["spec"]["volumeClaimTemplates"] = json!([template("data")]);
        StatefulSet.default(&mut again);
        let (again, errors) = updated(again, &edited, &[]);
        assert_eq!((names(&again), errors), (vec!["data", "log"], vec![]));
        assert_eq!(templates(&again)[1], templates(&edited)[1]);
        // Without the mount it is removed again, and is in the record once.
        let mut without = again.clone();
        without["spec"] = stored["spec"].clone();
        let (without, errors) = updated(without, &again, &[]);
        assert_eq!((names(&without), errors), (vec!["data"], vec![]));
        assert_eq!(kept(&without), [templates(&edited)[1].clone()]);
    }

    /// Only the server writes the record, and the record is bounded.
    #[test]
    fn the_record_is_the_servers_and_bounded() {
        let made_up = serde_json::to_string(&json!([template("x")])).unwrap();
        let mut new = set(Some("InPlace"), &["data"], &["data"]);
        new["metadata"]["annotations"][REMOVED_CLAIM_TEMPLATES] = json!(made_up);
        let mut created = new.clone();
        StatefulSet.prepare_create(&mut created);
        assert_eq!(kept(&created), [] as [Value; 0]);
        let old = set(Some("InPlace"), &["data"], &["data"]);
        StatefulSet.prepare_update(&mut new, &old);
        assert_eq!(kept(&new), [] as [Value; 0]);

        let mut through_status = new.clone();
        through_status["metadata"]["annotations"][REMOVED_CLAIM_TEMPLATES] = json!(made_up);
        StatefulSet.prepare_status_update(&mut through_status, &old);
        assert_eq!(kept(&through_status), [] as [Value; 0]);
        let mut stored = old.clone();
        stored["metadata"]["annotations"][REMOVED_CLAIM_TEMPLATES] = json!(made_up);
        StatefulSet.prepare_status_update(&mut through_status, &stored);
        assert_eq!(kept(&through_status).len(), 1);

        let named: Vec<Value> = (0..20).map(|n| template(&format!("t{n}"))).collect();
        let text = record(named).unwrap();
        let list: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(
            list.iter().map(name).next(),
            Some("t4"),
            "the oldest are left out"
        );
        let mut large = template("large");
        large["metadata"]["annotations"] = json!({"a": "x".repeat(KEPT_BYTES_MAX)});
        assert_eq!(record(vec![large.clone()]), None);
        let text = record(vec![large, template("small")]).unwrap();
        assert!(text.len() < 1000, "{text}");
        assert_eq!(record(Vec::new()), None);
    }

    /// The answer says what an edit does not change in claims that exist.
    #[test]
    fn an_edit_warns_of_what_stays() {
        let old = set(Some("InPlace"), &["data", "log"], &["data"]);
        let mut new = set(Some("InPlace"), &["data"], &["data"]);
        new["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] = json!("fast");
        let expected = [
            "spec.volumeClaimTemplates[0].spec.storageClassName: claims that exist keep their \
             StorageClass",
            "spec.volumeClaimTemplates: the claims of the removed template \"log\" are kept",
        ];
        assert_eq!(StatefulSet.warnings(&new, Some(&old)), expected);
    }
}
