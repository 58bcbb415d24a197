//! A remedy: a text and commands.

use std::fmt;

use json_tree::{Value, json};
use resource_kinds::labels::POD_TEMPLATE_HASH;
use resource_kinds::pod_view::PodView;

use super::text;

/// The steps that would resolve a cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// The advice in one line.
    pub text: String,
    /// Commands to run one after another. Words in capitals are placeholders for the user's values:
    /// `IMAGE`, `VALUE`.
    pub commands: Vec<String>,
}

impl Remedy {
    /// A remedy without commands.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            commands: Vec::new(),
        }
    }

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

/// Prints the text and the commands in one line.
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.commands.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.commands.join(" && "))
    }
}

/// The object whose controller creates the pod, from the pod's owner references.
enum Maker {
    /// The pod has no owner.
    Nobody,
    /// A workload with a mutable template: its name in kubectl commands.
    Template(String),
    /// A Job, whose template is immutable.
    Job(String),
    /// An owner whose template kubectl cannot change.
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

/// The name of a ReplicaSet consists of the Deployment's name and the hash of the template.
fn deployment(pod: &PodView, replica_set: &str) -> String {
    let hash = pod.label(POD_TEMPLATE_HASH);
    let name = hash.and_then(|hash| replica_set.strip_suffix(hash)?.strip_suffix('-'));
    match name {
        Some(name) => format!("deployment/{name}"),
        None => format!("rs/{replica_set}"),
    }
}

/// The object to edit to change the pod: its StatefulSet, its other owner, or the pod itself.
pub fn template(pod: &PodView) -> String {
    match (maker(pod), &pod.controller) {
        (Maker::Template(name), _) => name,
        (Maker::Job(name), _) => format!("job/{name}"),
        (Maker::Nobody, _) | (Maker::Other, None) => format!("pod/{}", pod.name),
        (Maker::Other, Some(owner)) => format!("{}/{}", owner.kind.to_lowercase(), owner.name),
    }
}

/// The commands that merge `change` into the specification of the pod or its workload. Immutable objects
/// are recreated.
pub fn change(pod: &PodView, change: Value) -> Vec<String> {
    let patch = |target: &str, options: &str, patch: Value| {
        // `PORT` is a placeholder for a number.
        let patch = quoted(&patch.to_string().replace("\"PORT\"", "PORT"));
        text::kubectl(
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
            // These workloads do not replace pods when their template changes.
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

/// The command that recreates a Job with `change` merged into its specification, which is mostly immutable.
pub fn job_anew(namespace: &str, name: &str, change: Value) -> String {
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
            (Some(fields), Value::Object(changes)) => fields.extend(changes.clone()),
            _ => spec[key] = value.clone(),
        }
    }
    let patch = quoted(&json!({ "spec": spec }).to_string());
    let patch = format!("patch job {name} --dry-run=client -o yaml -p {patch}");
    format!(
        "{} | kubectl replace --force -f -",
        text::kubectl(namespace, &patch)
    )
}

/// The command `kubectl delete pod NAME`, with the pod's namespace.
pub fn delete(pod: &PodView) -> String {
    text::kubectl(&pod.namespace, &format!("delete pod {}", pod.name))
}

/// A text quoted as one word for a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings U36
    #[test]
    fn a_text_is_one_word_of_a_shell() {
        assert_eq!(quoted("{\"a\":1}"), "'{\"a\":1}'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
