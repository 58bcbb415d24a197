//! A remedy: in words, and as commands.

use std::fmt;

use resource_kinds::labels::POD_TEMPLATE_HASH;
use resource_kinds::pod_view::PodView;
use serde_json::{Value, json};

use super::words;

/// What would unblock something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// In words: one line.
    pub text: String,
    /// Commands that do it, to be typed one after the other. Words in capitals stand for what only
    /// the user can know: `IMAGE`, `VALUE`.
    pub commands: Vec<String>,
}

impl Remedy {
    /// Words alone.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            commands: Vec::new(),
        }
    }

    /// With one more command.
    #[must_use]
    pub fn with(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }
}

impl From<&str> for Remedy {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Remedy {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&Remedy> for Remedy {
    fn from(other: &Remedy) -> Self {
        other.clone()
    }
}

/// All in one line.
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.commands.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.commands.join(" && "))
    }
}

/// What a pod is made from, as far as the pod itself tells.
enum Maker {
    /// It is nobody's.
    Nobody,
    /// A workload whose template may be changed: its name as kubectl takes it.
    Template(String),
    /// A Job, whose template may not.
    Job(String),
    /// Something that kubectl knows no template of.
    Other,
}

fn maker(pod: &PodView) -> Maker {
    let Some(owner) = &pod.controller else {
        return Maker::Nobody;
    };
    let name = &*owner.name;
    match &*owner.kind {
        "StatefulSet" => Maker::Template(format!("sts/{name}")),
        "DaemonSet" => Maker::Template(format!("ds/{name}")),
        "ReplicationController" => Maker::Template(format!("rc/{name}")),
        "ReplicaSet" => Maker::Template(deployment(pod, name)),
        "Job" => Maker::Job(name.to_owned()),
        _ => Maker::Other,
    }
}

/// A Deployment's ReplicaSets are named after it and the hash of the template.
fn deployment(pod: &PodView, replica_set: &str) -> String {
    let hash = pod.label(POD_TEMPLATE_HASH);
    let name = hash.and_then(|hash| replica_set.strip_suffix(hash)?.strip_suffix('-'));
    match name {
        Some(name) => format!("deployment/{name}"),
        None => format!("rs/{replica_set}"),
    }
}

/// What to edit to change the pod: its StatefulSet, its other owner, or itself.
pub(super) fn template(pod: &PodView) -> String {
    match (maker(pod), &pod.controller) {
        (Maker::Template(name), _) => name,
        (Maker::Job(name), _) => format!("job/{name}"),
        (Maker::Nobody, _) | (Maker::Other, None) => format!("pod/{}", pod.name),
        (Maker::Other, Some(owner)) => format!("{}/{}", owner.kind.to_lowercase(), owner.name),
    }
}

/// The commands that merge `change` into the spec of the pod, by way of what makes it. What is
/// immutable is made anew.
pub(super) fn change(pod: &PodView, change: Value) -> Vec<String> {
    let patch = |target: &str, options: &str, patch: Value| {
        // A number is to be filled in there.
        let patch = quoted(&patch.to_string().replace("\"PORT\"", "PORT"));
        words::kubectl(
            &pod.namespace,
            &format!("patch {target}{options} -p {patch}"),
        )
    };
    let locally = " --dry-run=client -o yaml";
    let again = "| kubectl replace --force -f -";
    match maker(pod) {
        Maker::Template(target) => {
            let template = json!({ "spec": { "template": { "spec": change } } });
            let mut commands = vec![patch(&target, "", template)];
            // These do not replace pods because their template has changed.
            if target.starts_with("rs/") || target.starts_with("rc/") {
                commands.push(delete(pod));
            }
            commands
        }
        Maker::Nobody => {
            let target = format!("pod {}", pod.name);
            let patch = patch(&target, locally, json!({ "spec": change }));
            vec![format!("{patch} {again}")]
        }
        Maker::Job(name) => {
            let template = json!({ "template": { "spec": change } });
            vec![job_anew(&pod.namespace, &name, template)]
        }
        Maker::Other => Vec::new(),
    }
}

/// The command that makes a Job anew with `change` merged into its spec, most of which is
/// immutable.
pub(super) fn job_anew(namespace: &str, name: &str, change: Value) -> String {
    let mut spec = json!({
        "selector": null,
        "template": { "metadata": { "labels": {
            "batch.kubernetes.io/controller-uid": null,
            "batch.kubernetes.io/job-name": null,
            "controller-uid": null,
            "job-name": null,
        } } },
    });
    for (key, value) in change.as_object().into_iter().flatten() {
        match (spec.get_mut(key).and_then(Value::as_object_mut), value) {
            (Some(own), Value::Object(more)) => own.extend(more.clone()),
            _ => spec[key] = value.clone(),
        }
    }
    let patch = quoted(&json!({ "spec": spec }).to_string());
    let patch = format!("patch job {name} --dry-run=client -o yaml -p {patch}");
    format!(
        "{} | kubectl replace --force -f -",
        words::kubectl(namespace, &patch)
    )
}

/// `kubectl delete pod NAME`
pub(super) fn delete(pod: &PodView) -> String {
    words::kubectl(&pod.namespace, &format!("delete pod {}", pod.name))
}

/// A text as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings U3
    #[test]
    fn a_text_is_one_word_of_a_shell() {
        assert_eq!(quoted("{\"a\":1}"), "'{\"a\":1}'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
