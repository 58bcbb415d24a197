//! The conflict error of an apply.

use object_model::{Cause, Status, StatusDetails, StatusReason};

use super::managers::{Manager, Operation};

/// The error of a server-side apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The applied object does not match its type; with upstream's text.
    #[error("{0}")]
    Malformed(String),
    /// Other managers own fields that would change.
    #[error("{}", summary(.0))]
    Conflicts(Vec<Conflict>),
}

/// A field that another manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager, in the format of messages: `"kubectl-edit" using apps/v1`.
    pub manager: String,
    /// For instance `.spec.replicas`.
    pub field: String,
}

impl ApplyError {
    /// The response for the client: 409 with a cause per conflict (kubectl prints the causes), or 400.
    pub fn status(&self) -> Status {
        let Self::Conflicts(conflicts) = self else {
            return Status::bad_request(self.to_string());
        };
        let mut status = Status::new(StatusReason::Conflict, self.to_string());
        let causes = conflicts.iter().map(|conflict| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.manager),
            field: conflict.field.clone(),
        });
        status.details = Some(Box::new(StatusDetails {
            causes: causes.collect(),
            ..StatusDetails::default()
        }));
        status
    }
}

fn summary(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        let Conflict { manager, field } = only;
        return format!("Apply failed with 1 conflict: conflict with {manager}: {field}");
    }
    let mut lines = Vec::new();
    let mut before = None;
    for Conflict { manager, field } in conflicts {
        if before != Some(manager) {
            lines.push(format!("conflicts with {manager}:"));
            before = Some(manager);
        }
        lines.push(format!("- {field}"));
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}

/// A manager in the format of messages.
pub(super) fn named(manager: &Manager<'_>) -> String {
    let mut name = format!("{:?}", manager.name);
    if !manager.subresource.is_empty() {
        name.push_str(&format!(" with subresource {:?}", manager.subresource));
    }
    if manager.operation == Operation::Update {
        name.push_str(&format!(" using {}", manager.api_version));
    }
    name
}
