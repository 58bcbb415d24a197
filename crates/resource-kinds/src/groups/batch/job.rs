//! batch/v1 Job.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, duration};

use super::job_rules as rules;
use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Deletion, Kind, KindInfo, Selectable, StatusUpdate, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::conditions::is_true;
use crate::validation::field::Field;
use crate::validation::workload;
use crate::well_known::labels::{CONTROLLER_UID, JOB_NAME, LEGACY_CONTROLLER_UID, LEGACY_JOB_NAME};

#[derive(Debug)]
pub struct Job;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[STATUS],
    ..namespaced(Names {
        group: "batch",
        kind: "Job",
        list_kind: "JobList",
        plural: "jobs",
        singular: "job",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Status", "How the job is doing."),
    table::column("Completions", "Pods that have succeeded, of those wanted."),
    table::column("Duration", "How long the job has been running, or ran."),
    table::AGE,
    table::wide("Containers", "Names of the containers of the template."),
    table::wide("Images", "Images of the containers of the template."),
    table::wide("Selector", "What pods are selected by."),
];

/// Default of `backoffLimit`.
const BACKOFF_LIMIT: i64 = 6;

impl Kind for Job {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut job = self.info().decode(object)?;
        workload::decode_template(job.get_mut("spec"));
        workload::drop_zero_counts(&mut job, &["active", "succeeded", "failed"]);
        Ok(job)
    }

    fn default(&self, object: &mut Value) {
        let labels = object
            .pointer("/spec/template/metadata/labels")
            .filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()))
            .cloned();
        if let Some(labels) = labels
            && let Some(metadata) = parts::entry(object, "metadata")
        {
            parts::fill(metadata, "labels", labels);
        }
        if let Some(spec) = parts::entry(object, "spec") {
            default_spec(spec);
        }
    }

    /// Unless `manualSelector` is set, the selector of a job contains the job's own UID.
    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({}));
        if object["spec"]["manualSelector"] != true {
            generate_selector(object);
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        rules::create(object)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        rules::update(object, old)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        workload::warnings(object, old)
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }

    fn deletion(&self) -> &dyn Deletion {
        self
    }
}

impl Printer for Job {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let [names, images] = workload::containers(&Field::of(object, "spec.template"));
        vec![
            table::name(object),
            json!(state(object)),
            json!(completions(object)),
            json!(running_time(object, now)),
            table::age(object, now),
            names,
            images,
            workload::selector_cell(&object["spec"]["selector"]),
        ]
    }
}

impl StatusUpdate for Job {
    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        rules::status(object, old)
    }
}

impl Selectable for Job {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let count = workload::count(object, "status", "succeeded");
        (field == "status.successful").then(|| count.to_string())
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["status.successful"])
    }
}

impl Deletion for Job {
    /// Dependents are orphaned by default, as before Kubernetes had garbage collection.
    fn orphans_by_default(&self) -> bool {
        true
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set \
             propagationPolicy=Background to remove them or set propagationPolicy=Orphan to \
             suppress this warning",
        )
    }
}

fn default_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        parts::set(spec, "completions", 1);
    }
    parts::fill(spec, "parallelism", 1);
    let limit = match spec["backoffLimitPerIndex"] {
        Value::Null => BACKOFF_LIMIT,
        _ => i64::from(i32::MAX),
    };
    parts::fill(spec, "backoffLimit", limit);
    parts::fill(spec, "completionMode", "NonIndexed");
    parts::fill(spec, "suspend", false);
    let policy = match spec["podFailurePolicy"] {
        Value::Null => "TerminatingOrFailed",
        _ => "Failed",
    };
    parts::fill(spec, "podReplacementPolicy", policy);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in parts::each(policy, "rules") {
            for pattern in parts::each(rule, "onPodConditions") {
                parts::fill(pattern, "status", "True");
            }
        }
    }
    workload::default_template(spec);
}

fn generate_selector(object: &mut Value) {
    let text = |field: &str| json!(object["metadata"][field].as_str().unwrap_or_default());
    let (name, uid) = (text("name"), text("uid"));
    let Some(spec) = parts::entry(object, "spec") else {
        return;
    };
    if let Some(template) = parts::entry(spec, "template")
        && let Some(metadata) = parts::entry(template, "metadata")
        && let Some(labels) = parts::entry(metadata, "labels")
    {
        for key in [JOB_NAME, LEGACY_JOB_NAME] {
            parts::fill(labels, key, name.clone());
        }
        for key in [CONTROLLER_UID, LEGACY_CONTROLLER_UID] {
            parts::fill(labels, key, uid.clone());
        }
    }
    if let Some(selector) = parts::entry(spec, "selector")
        && let Some(labels) = parts::entry(selector, "matchLabels")
    {
        parts::fill(labels, CONTROLLER_UID, uid);
    }
}

fn state(object: &Value) -> &'static str {
    if is_true(object, "Complete") {
        "Complete"
    } else if is_true(object, "Failed") {
        "Failed"
    } else if object["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else if is_true(object, "Suspended") {
        "Suspended"
    } else if is_true(object, "FailureTarget") {
        "FailureTarget"
    } else if is_true(object, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(object: &Value) -> String {
    let done = workload::count(object, "status", "succeeded");
    match object["spec"]["completions"].as_i64() {
        Some(desired) => format!("{done}/{desired}"),
        None => match workload::count(object, "spec", "parallelism") {
            parallel if parallel > 1 => format!("{done}/1 of {parallel}"),
            _ => format!("{done}/1"),
        },
    }
}

fn running_time(object: &Value, now: Timestamp) -> String {
    let time = |field: &str| {
        let text = object["status"][field].as_str()?;
        text.parse::<Timestamp>().ok()
    };
    let Some(start) = time("startTime") else {
        return String::new();
    };
    // A failed job has no completion time; the time is in its condition.
    let failed = Field::of(object, "status.conditions")
        .items()
        .find(|c| c.get("type").text() == "Failed" && c.get("status").text() == "True")
        .and_then(|c| c.get("lastTransitionTime").text().parse().ok());
    let end = time("completionTime").or(failed).unwrap_or(now);
    duration::human(end.as_second() - start.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(change: impl FnOnce(&mut Value)) -> Value {
        let mut object = json!({"metadata": {"name": "pi", "namespace": "d", "uid": "u"}, "spec": {
            "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i"}]}}}});
        change(&mut object["spec"]);
        let mut object = Job.decode(object).unwrap();
        Job.default(&mut object);
        Job.prepare_create(&mut object);
        object
    }

    #[test]
    fn a_job_is_filled_in() {
        let job = accept(|_| {});
        let mut spec = job["spec"].clone();
        assert_eq!(
            spec["template"]["metadata"]["labels"],
            json!({"batch.kubernetes.io/job-name": "pi", "job-name": "pi",
                "batch.kubernetes.io/controller-uid": "u", "controller-uid": "u"})
        );
        parts::remove(&mut spec, "template");
        assert_eq!(
            spec,
            json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "suspend": false,
                "completionMode": "NonIndexed", "podReplacementPolicy": "TerminatingOrFailed",
                "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}})
        );
        assert_eq!(Job.validate_create(&job), []);
        let queue = accept(|spec| spec["parallelism"] = json!(3));
        assert_eq!(queue["spec"]["completions"], Value::Null);
    }

    #[test]
    fn a_row_shows_how_far_the_job_is() {
        let mut job = accept(|spec| spec["completions"] = json!(3));
        job["status"] = json!({"succeeded": 2, "startTime": "1970-01-01T00:00:00Z"});
        let now: Timestamp = "1970-01-01T00:00:07Z".parse().unwrap();
        let row = Job.row(&job, now);
        assert_eq!(row[1..4], [json!("Running"), json!("2/3"), json!("7s")]);
        job["status"]["conditions"] = json!([{"type": "Failed", "status": "True",
            "lastTransitionTime": "1970-01-01T00:00:05Z"}]);
        let row = Job.row(&job, now);
        assert_eq!(row[1..4], [json!("Failed"), json!("2/3"), json!("5s")]);
    }
}
