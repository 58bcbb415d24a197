//! What the controllers have to say in figures, for `/metrics`.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::apps::v1::StatefulSet;
use planners::stateful_set::figures;
use reconcile::Cache;

const MAX_UNAVAILABLE: &str = "statefulset_controller_statefulset_max_unavailable";
const UNAVAILABLE: &str = "statefulset_controller_statefulset_unavailable_replicas";

/// Handed to the controllers, and asked by whoever serves `/metrics`; clones are one.
#[derive(Clone, Default)]
pub struct Figures {
    sets: Arc<OnceLock<Cache<StatefulSet>>>,
}

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Figures {
    /// From now on there is something to say.
    pub(crate) fn read(&self, sets: &Cache<StatefulSet>) {
        self.sets.get_or_init(|| sets.clone());
    }

    /// The figures in the text form of Prometheus, with kube-controller-manager's names.
    pub fn text(&self) -> String {
        let sets = self.sets.get().map(Cache::list).unwrap_or_default();
        let mut limits = heading(
            MAX_UNAVAILABLE,
            "Pods that a rolling update may make unavailable.",
        );
        let mut states = heading(UNAVAILABLE, "Wanted pods that are not available.");
        for set in sets {
            let Some(figures) = figures(&set) else {
                continue;
            };
            let labels = format!(
                "pod_management_policy=\"{}\",statefulset_name=\"{}\",statefulset_namespace=\"{}\"",
                figures.pod_management_policy,
                set.metadata.name.as_deref().unwrap_or_default(),
                set.metadata.namespace.as_deref().unwrap_or_default(),
            );
            let (max, now) = (figures.max_unavailable, figures.unavailable);
            // Writing to a string does not fail.
            let _written = writeln!(limits, "{MAX_UNAVAILABLE}{{{labels}}} {max}");
            let _written = writeln!(states, "{UNAVAILABLE}{{{labels}}} {now}");
        }
        limits + &states
    }
}

fn heading(name: &str, help: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} gauge\n")
}
