//! batch/v1 CronJob.

use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;
use json_tree::{Value, json};
use object_model::FieldError;
use object_model::cron::Schedule;

use super::job_rules;
use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::kind::info::{Names, STATUS, namespaced};
use crate::kind::{Kind, KindInfo, Words, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};
use crate::validation::{pod_template, workload};

#[derive(Debug)]
pub struct CronJob;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    categories: Words::Fixed(&["all"]),
    subresources: &[STATUS],
    ..namespaced(Names {
        group: "batch",
        kind: "CronJob",
        list_kind: "CronJobList",
        plural: "cronjobs",
        singular: "cronjob",
        short: &["cj"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Schedule", "When jobs are made."),
    table::column("Timezone", "Where the schedule is told the time."),
    Column {
        kind: "boolean",
        ..table::column("Suspend", "Whether no jobs are made.")
    },
    table::number("Active", "Jobs that are running."),
    table::column("Last Schedule", "Time since the last job was made."),
    table::AGE,
    table::wide("Containers", "Names of the containers of the template."),
    table::wide("Images", "Images of the containers of the template."),
    table::wide("Selector", "What pods are selected by."),
];

/// A CronJob's name must be shorter than a Job's, because the controller appends eleven characters to the name of a
/// Job.
const NAME_CHARS_MAX: usize = 52;
const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];

impl Kind for CronJob {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut job = self.info().decode(object)?;
        workload::decode_template(job.pointer_mut("/spec/jobTemplate/spec"));
        Ok(job)
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = parts::entry(object, "spec") else {
            return;
        };
        parts::fill(spec, "concurrencyPolicy", "Allow");
        parts::fill(spec, "suspend", false);
        parts::fill(spec, "successfulJobsHistoryLimit", 3);
        parts::fill(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = spec.pointer_mut("/jobTemplate/spec") {
            workload::default_template(job);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        parts::set(object, "status", json!({}));
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = validate(object, None);
        let name = Field::of(object, "metadata.name");
        if name.text().len() > NAME_CHARS_MAX {
            let detail = format!("must be no more than {NAME_CHARS_MAX} characters");
            errors.push(name.invalid(detail));
        }
        errors
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        validate(object, Some(old))
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        let template = Field::of(object, "spec.jobTemplate.spec.template.spec");
        pod_template::warnings(&template)
    }
}

impl Printer for CronJob {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let template = Field::of(object, "spec.jobTemplate.spec.template");
        let [names, images] = workload::containers(&template);
        let last = match &object["status"]["lastScheduleTime"] {
            Value::Null => json!("<none>"),
            moment => table::since(moment, now),
        };
        vec![
            table::name(object),
            table::text_or(&object["spec"]["schedule"], ""),
            table::text_or(&object["spec"]["timeZone"], "<none>"),
            json!(object["spec"]["suspend"].as_bool().unwrap_or_default()),
            json!(table::count(&object["status"]["active"])),
            last,
            table::age(object, now),
            names,
            images,
            workload::selector_cell(&object["spec"]["jobTemplate"]["spec"]["selector"]),
        ]
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = Field::of(object, "spec");
    let mut errors = Vec::new();
    schedule(&spec.get("schedule"), &mut errors);
    let zone = spec.get("timeZone");
    let same = old.is_some_and(|old| old["spec"]["timeZone"] == *zone.value);
    if zone.is_set() && !same {
        time_zone(&zone, &mut errors);
    }
    for field in [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        errors.check_not_negative(&spec.get_path(field));
    }
    errors.check_one_of(&spec.get("concurrencyPolicy"), POLICIES);
    let job = spec.get_path("jobTemplate.spec");
    let of_pods = &object["spec"]["jobTemplate"]["spec"]["template"];
    let whole = old.is_none_or(|old| old["spec"]["jobTemplate"]["spec"]["template"] != *of_pods);
    errors.extend(job_rules::settings(&job, whole));
    if job.get("selector").is_set() {
        let at = job.get("selector");
        errors.push(at.invalid("`selector` will be auto-generated"));
    }
    if job.get("manualSelector").is_true() {
        let at = job.get("manualSelector");
        errors.push(at.not_supported(&["nil", "false"]));
    }
    errors
}

fn schedule(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if at.is_empty() {
        errors.push(at.required(""));
    } else if at.text().contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(at.invalid(detail));
    } else if let Err(error) = Schedule::parse(at.text()) {
        errors.push(at.invalid(error.to_string()));
    }
}

fn time_zone(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let name = at.text();
    if name.is_empty() {
        errors.push(at.invalid("timeZone must be nil or non-empty string"));
    } else if name.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in \
                      https://www.iana.org/time-zones";
        errors.push(at.invalid(detail));
    } else if TimeZoneDatabase::bundled().get(name).is_err() {
        errors.push(at.invalid(format!("unknown time zone {name}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "hourly", "namespace": "d"}, "spec": {
            "schedule": "0 * * * *", "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}}}});
        change(&mut object);
        let mut object = CronJob.decode(object).unwrap();
        CronJob.default(&mut object);
        let errors = CronJob.validate_create(&object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schedules_and_zones_are_known() {
        assert!(checked(|_| {}).is_empty());
        assert!(checked(|job| job["spec"]["timeZone"] = json!("Europe/Berlin")).is_empty());
        assert_eq!(
            checked(|job| job["spec"]["timeZone"] = json!("Moon/Crater")),
            ["spec.timeZone: Invalid value: \"Moon/Crater\": unknown time zone Moon/Crater"]
        );
        assert_eq!(
            checked(|job| job["spec"]["schedule"] = json!("TZ=UTC 0 * * * *")),
            [
                "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in \
                 schedule, use timeZone field instead"
            ]
        );
        assert_eq!(
            checked(|job| job["spec"]["schedule"] = json!("* *")),
            ["spec.schedule: Invalid value: \"* *\": expected exactly 5 fields, found 2: [* *]"]
        );
    }

    #[test]
    fn a_name_leaves_room_for_the_jobs() {
        let name = "x".repeat(53);
        assert_eq!(
            checked(|job| job["metadata"]["name"] = json!(name)).len(),
            1
        );
    }
}
