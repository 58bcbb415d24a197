//! Validation of the annotations of mainstay (`mainstay.dev/…`).

use json_tree::Value;
use object_model::{FieldError, FieldPath};

use super::field::Field;
use crate::well_known::annotations::{
    CLAIM_UPDATES, LOST_VOLUME, LOST_VOLUME_SECONDS, MAX_UNAVAILABLE, NODE_FAILURE,
    ORDINAL_NODE_PORT, OWN_PREFIX, PROGRESS_DEADLINE_SECONDS, PURPOSE, SCALE_DOWN, STUCK_ROLLOUT,
};

/// An annotation of mainstay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAnnotation {
    /// The key, `mainstay.dev/…`.
    pub name: &'static str,
    /// The kinds that may have it.
    pub kinds: &'static [&'static str],
    /// The values that validation accepts.
    pub values: Values,
    /// The value that applies to an object without the annotation.
    pub default: &'static str,
    /// The purpose, in one line.
    pub purpose: &'static str,
}

/// The allowed values of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A whole number in decimal digits.
    Number { min: i64, max: i64 },
}

/// All annotations of mainstay, sorted by name. `docs/annotations.md` lists them.
pub const OWN: &[OwnAnnotation] = &[
    OwnAnnotation {
        name: CLAIM_UPDATES,
        kinds: &["StatefulSet"],
        values: Values::Words(&["InPlace", "NewOnly"]),
        default: "none",
        purpose: "edits of claim templates: claims that exist follow, or only new claims; without it they are refused",
    },
    OwnAnnotation {
        name: LOST_VOLUME,
        kinds: &["StatefulSet"],
        values: Values::Words(&["Recreate", "Wait"]),
        default: "Wait",
        purpose: "volume on a fenced node: its claim is deleted and made again, empty, or the pod waits",
    },
    OwnAnnotation {
        name: LOST_VOLUME_SECONDS,
        kinds: &["StatefulSet"],
        values: Values::Number {
            min: 1,
            max: i32::MAX as i64,
        },
        default: "300",
        purpose: "seconds for which the node must be fenced before `lost-volume: Recreate` applies",
    },
    OwnAnnotation {
        name: MAX_UNAVAILABLE,
        kinds: &["StatefulSet"],
        values: Values::Words(&["AsReleased", "Corrected"]),
        default: "Corrected",
        purpose: "how pods that are unavailable already count against `maxUnavailable`",
    },
    OwnAnnotation {
        name: NODE_FAILURE,
        kinds: &["StatefulSet"],
        values: Values::Words(&["Failover", "Wait"]),
        default: "Wait",
        purpose: "handling of a pod whose node is lost: it is replaced on another node, or waits",
    },
    OwnAnnotation {
        name: ORDINAL_NODE_PORT,
        kinds: &["StatefulSet"],
        values: Values::Number {
            min: 1,
            max: u16::MAX as i64,
        },
        default: "none",
        purpose: "node port of ordinal 0; each pod gets a Service at that port plus its ordinal",
    },
    OwnAnnotation {
        name: PROGRESS_DEADLINE_SECONDS,
        kinds: &["StatefulSet"],
        values: Values::Number {
            min: 1,
            max: i32::MAX as i64,
        },
        default: "none",
        purpose: "seconds without progress after which the set is `Stalled`",
    },
    OwnAnnotation {
        name: PURPOSE,
        kinds: &["Eviction"],
        values: Values::Words(&["ScaleDown", "Update"]),
        default: "none",
        purpose: "reason of an eviction by the controller of a set, which no disruption budget holds",
    },
    OwnAnnotation {
        name: SCALE_DOWN,
        kinds: &["StatefulSet"],
        values: Values::Words(&["HighestFirst", "WaitAMoment", "WaitForLowest"]),
        default: "WaitAMoment",
        purpose: "time that an unhealthy surplus pod waits for a lower unhealthy one: none, a minute, no limit",
    },
    OwnAnnotation {
        name: STUCK_ROLLOUT,
        kinds: &["StatefulSet"],
        values: Values::Words(&["Replace", "Wait"]),
        default: "Replace",
        purpose: "handling of a pod that an earlier template broke: it is replaced, or stays",
    },
];

/// The errors of mainstay's annotations, on an object and in its templates. Values that are stored already are
/// accepted.
pub fn validate(kind: &str, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let before = |at: &Field<'_, '_>, key: &str| {
        let at_same_path = old.and_then(|old| old.pointer(&pointer(&at.path())));
        at_same_path
            .is_some_and(|map| map.get(key) == Some(at.value.get(key).unwrap_or(&Value::Null)))
    };
    let mut errors = Vec::new();
    let mut check = |kind: &str, holder: Field<'_, '_>| {
        let at = holder.get_path("metadata.annotations");
        for (key, value) in at.entries() {
            if key.starts_with(OWN_PREFIX) && !before(&at, key) {
                errors.extend(wrong(kind, key, &value));
            }
        }
    };
    let root = Field::root(object);
    check(kind, root);
    let spec = root.get("spec");
    let of_job = spec.get("jobTemplate");
    // The templates of an object, each with the kind that gets its annotations.
    for (at, kind) in [
        (root.get("template"), "Pod"),
        (spec.get("template"), "Pod"),
        (of_job, "Job"),
        (of_job.get_path("spec.template"), "Pod"),
        (spec.get("volumeClaimTemplates"), "PersistentVolumeClaim"),
    ] {
        match at.value {
            Value::Object(_) => check(kind, at),
            _ => at.items().for_each(|template| check(kind, template)),
        }
    }
    errors
}

/// Converts `a.b[0].c` to `/a/b/0/c`.
fn pointer(path: &FieldPath) -> String {
    let slashes = path.to_string().replace(['.', '['], "/").replace(']', "");
    format!("/{slashes}")
}

fn wrong(kind: &str, key: &str, value: &Field<'_, '_>) -> Option<FieldError> {
    let Some(annotation) = OWN.iter().find(|definition| definition.name == key) else {
        return Some(FieldError::invalid(
            &value.path(),
            key,
            unknown(kind, "no such annotation"),
        ));
    };
    if !annotation.kinds.contains(&kind) {
        let detail = unknown(
            kind,
            &format!("it is for a {}", annotation.kinds.join(" or a ")),
        );
        return Some(FieldError::invalid(&value.path(), key, detail));
    }
    match annotation.values {
        Values::Words(words) if words.contains(&value.text()) => None,
        Values::Words(words) => Some(value.not_supported(words)),
        Values::Number { min, max } => {
            let digits = value.text().bytes().all(|byte| byte.is_ascii_digit());
            let number = value.text().parse().ok().filter(|_| digits);
            let fits = number.is_some_and(|number: i64| (min..=max).contains(&number));
            let detail = format!("must be a whole number from {min} to {max}");
            (!fits).then(|| value.invalid(detail))
        }
    }
}

/// The error for an annotation that the kind does not support; it lists the supported annotations.
fn unknown(kind: &str, why: &str) -> String {
    let allowed: Vec<String> = OWN
        .iter()
        .filter(|annotation| annotation.kinds.contains(&kind))
        .map(|annotation| format!("{} ({})", annotation.name, annotation.values))
        .collect();
    if allowed.is_empty() {
        format!("{why}; a {kind} may have none that begins with {OWN_PREFIX}")
    } else {
        format!("{why}; a {kind} may have: {}", allowed.join(", "))
    }
}

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Words(words) => f.write_str(&words.join(" or ")),
            Self::Number { min, max } => write!(f, "{min} to {max}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn wrongs(kind: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
        let errors = validate(kind, object, old);
        errors.iter().map(ToString::to_string).collect()
    }

    fn with(key: &str, value: &str) -> Value {
        json!({"metadata": {"annotations": {key: value, "example.com/else": "free"}}})
    }

    fn on_its_kind(annotation: &OwnAnnotation, value: &str) -> Vec<String> {
        wrongs(annotation.kinds[0], &with(annotation.name, value), None)
    }

    fn on_a_set(key: &str, value: &str) -> Vec<String> {
        wrongs("StatefulSet", &with(key, value), None)
    }

    #[test]
    fn every_annotation_has_values_that_are_taken_and_others_that_are_not() {
        for annotation in OWN {
            let (good, bad) = match annotation.values {
                Values::Words(words) => (words.to_vec(), ["", "replace", "Replace ", "1"]),
                Values::Number { min, max } => {
                    let (low, high) = (on_its_kind(annotation, &min.to_string()), max.to_string());
                    assert!(low.is_empty(), "{}", annotation.name);
                    assert!(
                        on_its_kind(annotation, &high).is_empty(),
                        "{}",
                        annotation.name
                    );
                    (vec!["600"], ["", "0", "+1", "10s"])
                }
            };
            assert_eq!(annotation.kinds.len(), 1, "{}", annotation.name);
            let is_accepted = || on_its_kind(annotation, annotation.default).is_empty();
            assert!(
                annotation.default == "none" || is_accepted(),
                "{}",
                annotation.name
            );
            for value in good {
                assert!(
                    on_its_kind(annotation, value).is_empty(),
                    "{} {value}",
                    annotation.name
                );
            }
            for value in bad {
                assert_eq!(
                    on_its_kind(annotation, value).len(),
                    1,
                    "{} {value}",
                    annotation.name
                );
            }
        }
        assert!(OWN.is_sorted_by_key(|annotation| annotation.name));
    }

    #[test]
    fn a_value_that_is_not_allowed_is_told_those_that_are() {
        assert_eq!(
            on_a_set(STUCK_ROLLOUT, "Maybe"),
            [
                "metadata.annotations[mainstay.dev/stuck-rollout]: Unsupported value: \"Maybe\": \
                 supported values: \"Replace\", \"Wait\""
            ]
        );
        assert_eq!(
            on_a_set(PROGRESS_DEADLINE_SECONDS, "2147483648"),
            [
                "metadata.annotations[mainstay.dev/progress-deadline-seconds]: Invalid value: \
                 \"2147483648\": must be a whole number from 1 to 2147483647"
            ]
        );
    }

    #[test]
    fn a_key_that_is_not_known_is_told_those_that_are() {
        assert_eq!(
            on_a_set("mainstay.dev/stuck", "Wait"),
            [
                "metadata.annotations[mainstay.dev/stuck]: Invalid value: \"mainstay.dev/stuck\": \
                 no such annotation; a StatefulSet may have: mainstay.dev/claim-updates (InPlace or NewOnly), \
                 mainstay.dev/lost-volume (Recreate or Wait), mainstay.dev/lost-volume-seconds (1 to 2147483647), mainstay.dev/max-unavailable \
                 (AsReleased or Corrected), mainstay.dev/node-failure (Failover or Wait), \
                 mainstay.dev/ordinal-node-port (1 to 65535), \
                 mainstay.dev/progress-deadline-seconds (1 to 2147483647), mainstay.dev/scale-down (HighestFirst or WaitAMoment or WaitForLowest), \
                 mainstay.dev/stuck-rollout (Replace or Wait)"
            ]
        );
        assert_eq!(
            wrongs("Service", &with(STUCK_ROLLOUT, "Wait"), None),
            [
                "metadata.annotations[mainstay.dev/stuck-rollout]: Invalid value: \
                 \"mainstay.dev/stuck-rollout\": it is for a StatefulSet; a Service may have none \
                 that begins with mainstay.dev/"
            ]
        );
    }

    #[test]
    fn templates_are_held_to_what_is_made_of_them() {
        let mut set = json!({"spec": {"volumeClaimTemplates": [{}, {}]}});
        set["spec"]["template"] = with(STUCK_ROLLOUT, "Wait");
        set["spec"]["volumeClaimTemplates"][1] = with(SCALE_DOWN, "HighestFirst");
        let fields: Vec<String> = validate("StatefulSet", &set, None)
            .iter()
            .map(|error| error.field.to_string())
            .collect();
        assert_eq!(
            fields,
            [
                "spec.template.metadata.annotations[mainstay.dev/stuck-rollout]",
                "spec.volumeClaimTemplates[1].metadata.annotations[mainstay.dev/scale-down]",
            ]
        );
        assert!(
            wrongs("StatefulSet", &set, Some(&set)).is_empty(),
            "stored already"
        );
        let mut job = with(STUCK_ROLLOUT, "Wait");
        job["spec"]["template"] = with(STUCK_ROLLOUT, "Wait");
        let errors = wrongs("CronJob", &json!({"spec": {"jobTemplate": job}}), None);
        assert!(errors[0].contains("a Job may have none"), "{errors:?}");
        assert!(errors[1].contains("a Pod may have none"), "{errors:?}");
    }

    #[test]
    fn what_is_stored_may_stay_but_not_change() {
        let old = with("mainstay.dev/of-old", "x");
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(wrongs("StatefulSet", &new, Some(&old)).is_empty());
        assert_eq!(
            wrongs("StatefulSet", &with("mainstay.dev/of-old", "y"), Some(&old)).len(),
            1
        );
        assert_eq!(
            wrongs("StatefulSet", &with("mainstay.dev/new", "x"), Some(&old)).len(),
            1
        );
        for odd in [
            json!({}),
            Value::Null,
            json!({"metadata": {"annotations": 1}, "spec": []}),
        ] {
            assert!(wrongs("Pod", &odd, Some(&odd)).is_empty());
        }
    }

    /// The table in the document equals the table of the server.
    #[test]
    fn the_document_shows_all_of_them() {
        let document = include_str!("../../../../docs/annotations.md");
        let rows: Vec<String> = OWN
            .iter()
            .map(|annotation| {
                let kinds = annotation.kinds.join(", ");
                let values = annotation.values.to_string().replace(" or ", "`, `");
                let (name, default, purpose) =
                    (annotation.name, annotation.default, annotation.purpose);
                format!("| `{name}` | {kinds} | `{values}` | `{default}` | {purpose} |")
            })
            .collect();
        let lines: Vec<&str> = document.lines().filter(|l| l.starts_with("| `")).collect();
        assert_eq!(lines, rows);
    }
}
