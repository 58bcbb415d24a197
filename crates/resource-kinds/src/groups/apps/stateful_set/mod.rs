//! apps/v1 StatefulSet (`statefulset.md` §6).

mod claim_templates;
mod ordinal;
mod validate;

pub use ordinal::ordinal;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, names};

use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, SCALE, STATUS, namespaced};
use crate::kind::reads::whole;
use crate::kind::{FieldRead, Kind, KindInfo, Scalable, Siblings, StatusUpdate, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::Field;
use crate::validation::{claim, metadata, pod_template, workload};

/// apps/v1 StatefulSet.
#[derive(Debug)]
pub struct StatefulSet;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[SCALE, STATUS],
    ..namespaced(Names {
        group: "apps",
        kind: "StatefulSet",
        list_kind: "StatefulSetList",
        plural: "statefulsets",
        singular: "statefulset",
        short: &["sts"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Ready", "Pods that are ready, of those wanted."),
    table::AGE,
    table::wide("Containers", "Names of the containers of the template."),
    table::wide("Images", "Images of the containers of the template."),
];

impl Kind for StatefulSet {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        workload::decode(self.info().kind, object)
    }

    /// `statefulset.md` 6.1
    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "podManagementPolicy", "OrderedReady");
        parts::fill(spec, "replicas", 1);
        parts::fill(spec, "revisionHistoryLimit", workload::REVISION_HISTORY);
        parts::fill(spec, "serviceName", "");
        default_strategy(spec);
        if let Some(policy) = parts::entry(spec, "persistentVolumeClaimRetentionPolicy") {
            parts::fill(policy, "whenDeleted", "Retain");
            parts::fill(policy, "whenScaled", "Retain");
        }
        workload::default_template(spec);
        for claim in parts::each(spec, "volumeClaimTemplates") {
            parts::fill(claim, "apiVersion", "v1");
            parts::fill(claim, "kind", "PersistentVolumeClaim");
            claim::default(claim);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        claim_templates::forget(object);
        parts::set(
            object,
            "status",
            json!({"replicas": 0, "availableReplicas": 0}),
        );
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        parts::restore(object, old, "status");
        claim_templates::follow(object, old);
    }

    /// `statefulset.md` 6.6
    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate::create(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        validate::update(object, old, claim_templates::of_annotation(object))
    }

    /// A policy of the namespace may permit edits of the claim templates (rollouts.md C2).
    fn validate_update_among(
        &self,
        object: &Value,
        old: &Value,
        siblings: &Siblings<'_>,
    ) -> Vec<FieldError> {
        if !claim_templates::are_edited(object, old) {
            return self.validate_update(object, old);
        }
        let mut errors = metadata::validate_update(object);
        let updates = claim_templates::opt_in(object, siblings);
        errors.extend(validate::update(object, old, updates));
        errors
    }

    /// `statefulset.md` 6.14
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let claims = Field::of(object, "spec.volumeClaimTemplates");
        let mut all = workload::warnings(object, old);
        for claim in claims.items().filter(|_| old.is_none()) {
            // Upstream's path in the message does not contain `spec`.
            let spec = claim.with(&claim.value["spec"]);
            all.extend(pod_template::fractions(&spec));
        }
        if let Some(old) = old {
            all.extend(claim_templates::warnings(object, old));
        }
        all
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn scalable(&self) -> Option<&dyn Scalable> {
        Some(self)
    }
}

impl Printer for StatefulSet {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let number = |value: &Value| value.as_i64().unwrap_or_default();
        let ready = number(&object["status"]["readyReplicas"]);
        let desired = number(&object["spec"]["replicas"]);
        let [names, images] = workload::containers(&Field::of(object, "spec.template"));
        vec![
            table::name(object),
            json!(format!("{ready}/{desired}")),
            table::age(object, now),
            names,
            images,
        ]
    }
}

impl StatusUpdate for StatefulSet {
    /// No rule reads the pod template, which is the largest part of a set.
    fn reads(&self) -> &'static [FieldRead] {
        const READS: &[FieldRead] = &[FieldRead {
            name: "spec",
            below: &[whole("replicas")],
        }];
        READS
    }

    /// The record of removed claim templates does not change through `status` either.
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        parts::restore_all_but(object, old, &["status", "metadata"]);
        claim_templates::keep_record(object, old);
    }

    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        validate::status(object, old)
    }
}

impl Scalable for StatefulSet {
    fn scale(&self, object: &Value) -> Value {
        let selector = workload::selector_text(&object["spec"]["selector"]);
        workload::scale(object, &selector)
    }

    fn set_scale(&self, object: &mut Value, scale: &Value) -> Vec<FieldError> {
        workload::set_scale(object, scale)
    }
}

/// `statefulset.md` 5.10: `rollingUpdate` gets defaults only if the type was absent.
fn default_strategy(spec: &mut Value) {
    let Some(strategy) = parts::entry(spec, "updateStrategy") else {
        return;
    };
    if strategy["type"].is_null() {
        parts::set(strategy, "type", "RollingUpdate");
        parts::fill(strategy, "rollingUpdate", json!({}));
    }
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = strategy.get_mut("rollingUpdate")
    {
        parts::fill(rolling, "partition", 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| (*key).clone());
                entries
                    .into_iter()
                    .map(|(key, value)| (key.clone(), sorted(value)))
                    .collect()
            }
            Value::Array(list) => list.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }

    fn accept(object: Value) -> Value {
        let mut set = StatefulSet.decode(object).unwrap();
        StatefulSet.default(&mut set);
        StatefulSet.prepare_create(&mut set);
        set
    }

    fn web() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "foo"}},
                "template": {"metadata": {"labels": {"app": "foo"}, "creationTimestamp": null,
                        "annotations": {"test": "value"}},
                    "spec": {"containers": [{"name": "test", "image": "test"}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "www"}, "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1024Mi"}}}}]}})
    }

    /// `statefulset.md` 4.3: the second test vector.
    #[test]
    fn the_template_has_the_bytes_that_revisions_are_named_by() {
        let mut template = accept(web())["spec"]["template"].clone();
        parts::set(&mut template, "$patch", "replace");
        let data = sorted(&json!({"spec": {"template": template}})).to_string();
        assert_eq!(
            data,
            "{\"spec\":{\"template\":{\"$patch\":\"replace\",\"metadata\":{\"annotations\":\
             {\"test\":\"value\"},\"labels\":{\"app\":\"foo\"}},\"spec\":{\"containers\":[{\
             \"image\":\"test\",\"imagePullPolicy\":\"Always\",\"name\":\"test\",\"resources\":{},\
             \"terminationMessagePath\":\"/dev/termination-log\",\"terminationMessagePolicy\":\
             \"File\"}],\"dnsPolicy\":\"ClusterFirst\",\"restartPolicy\":\"Always\",\
             \"schedulerName\":\"default-scheduler\",\"securityContext\":{},\
             \"terminationGracePeriodSeconds\":30}}}}"
        );
        let hash = data
            .bytes()
            .chain("0".bytes())
            .fold(0x811c_9dc5_u32, |hash, byte| {
                hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)
            });
        assert_eq!(hash, 3_325_552_446);
    }

    /// `statefulset.md` 6.1
    #[test]
    fn a_set_is_filled_in() {
        let set = accept(web());
        let mut spec = set["spec"].clone();
        parts::remove(&mut spec, "template");
        assert_eq!(
            spec,
            json!({"selector": {"matchLabels": {"app": "foo"}}, "podManagementPolicy":
                "OrderedReady", "replicas": 1, "revisionHistoryLimit": 10, "serviceName": "",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain",
                    "whenScaled": "Retain"},
                "volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "www"}, "spec": {"accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}},
                        "volumeMode": "Filesystem"},
                    "status": {"phase": "Pending"}}]})
        );
        let again = accept(set.clone());
        assert_eq!(again, set, "decoding and defaults are idempotent");
    }

    /// `statefulset.md` 5.10
    #[test]
    fn a_strategy_that_is_named_stays_without_its_block() {
        let mut object = web();
        object["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
        assert_eq!(
            accept(object)["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate"})
        );
        let mut object = web();
        object["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": 2}});
        let expected = json!({"type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 2, "partition": 0}});
        assert_eq!(accept(object)["spec"]["updateStrategy"], expected);
    }

    /// `statefulset.md` 6.3
    #[test]
    fn a_set_scales() {
        let mut set = accept(web());
        let mut scale = StatefulSet.scale(&set);
        assert_eq!(
            scale["status"],
            json!({"replicas": 0, "selector": "app=foo"})
        );
        assert_eq!(
            scale["metadata"],
            json!({"name": "web", "namespace": "default"})
        );
        scale["spec"]["replicas"] = json!(5);
        assert_eq!(StatefulSet.set_scale(&mut set, &scale), []);
        assert_eq!(set["spec"]["replicas"], 5);
        scale["spec"]["replicas"] = json!(-1);
        assert_eq!(
            StatefulSet.set_scale(&mut set, &scale)[0].to_string(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
    }

    /// `kubectl.md` 1.8
    #[test]
    fn a_row_shows_ready_of_wanted() {
        let row = StatefulSet.row(&accept(web()), Timestamp::UNIX_EPOCH);
        assert_eq!(
            (&row[1], &row[3], &row[4]),
            (&json!("0/1"), &json!("test"), &json!("test"))
        );
    }
}
