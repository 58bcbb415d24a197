//! Defaults and validation of pods and pod templates, one file per topic. The rules and messages are those of
//! Kubernetes 1.36. The path of an error is always the path of the invalid field, also if upstream omits an index or
//! reports another field.

mod annotations;
mod claims;
mod containers;
mod defaults;
mod env;
mod ephemeral;
mod images;
mod ports;
mod probes;
mod resources;
mod restart;
mod scheduling;
mod security;
mod spec;
mod spread;
mod stop_signals;
mod volumes;
mod warnings;
mod windows;

pub(crate) use annotations::{
    validate as validate_annotations, validate_update as validate_annotations_update,
};
pub(crate) use defaults::{both_account_names, default_pod, default_spec};
pub(crate) use resources::{amounts, default_requests, is_extended, qos_class};
pub(crate) use scheduling::{node_selector, tolerations};
pub(crate) use spec::{validate_pod, validate_template};
pub(crate) use warnings::{fractions, warnings};

use json_tree::Value;

use crate::validation::field::Field;

/// The lists of containers of a pod's spec.
pub(crate) const CONTAINER_LISTS: [&str; 3] =
    ["containers", "initContainers", "ephemeralContainers"];

/// The lists of containers of a spec, the init containers first.
pub(crate) fn container_lists<'a, 's>(spec: &'s Field<'a, '_>) -> [Field<'a, 's>; 3] {
    ["initContainers", "containers", "ephemeralContainers"].map(|list| spec.get(list))
}

/// Whether an init container is a sidecar (`statefulset.md` 12.3).
pub(crate) fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}
