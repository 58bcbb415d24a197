//! The pauses of a world, and the wait for the goal at the end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use tokio::time::{Instant, sleep};

use crate::faults::Machine;
use crate::instances::Instances;
use crate::random::{below, millis};
use crate::user::User;
use crate::{goal, trace};

/// Maximum time until the goal is reached: pods of a lost node wait for five minutes.
const GOAL_WITHIN: Duration = Duration::from_secs(30 * 60);
/// The world is idle after this time without deviations from the goal.
const IDLE_TIME: Duration = Duration::from_secs(20);

/// A random pause, usually short, so that events overlap.
pub fn pause() -> Duration {
    match below(10) {
        0..4 => millis(0, 300),
        4..8 => millis(300, 5_000),
        _ => millis(5_000, 40_000),
    }
}

/// Waits for the service account, without which no pod can be created.
pub async fn wait_for_account(user: &User) {
    while !matches!(
        user.api::<ServiceAccount>().get_opt("default").await,
        Ok(Some(_))
    ) {
        sleep(Duration::from_millis(50)).await;
    }
}

/// The user repairs the sets; then the cluster must reach the specified state.
pub async fn settle(user: &User, instances: &Instances, machines: &[Arc<Machine>]) {
    if let Err(error) = user.repair().await {
        trace::broken(format!("the user cannot mend: {error}"));
    }
    wait_for_goal(user, instances, machines).await;
}

/// Waits until the cluster is in the specified state.
pub async fn wait_for_goal(user: &User, instances: &Instances, machines: &[Arc<Machine>]) {
    let nodes: Vec<String> = machines.iter().map(|machine| machine.name()).collect();
    let started = Instant::now();
    let mut idle_since = None;
    let mut last = Vec::new();
    while started.elapsed() < GOAL_WITHIN {
        sleep(Duration::from_secs(5)).await;
        // A pod may be released late, because a controller observes a label only while the controller runs.
        if let Err(error) = user.clean_up().await {
            trace!("user: refused: {error}");
        }
        let deviations = async {
            let mut deviations = goal::deviations(user, instances).await?;
            deviations.extend(user.missing_nodes(&nodes).await?);
            Ok::<_, kube_api_client::Error>(deviations)
        };
        match deviations.await {
            Ok(deviations) => last = deviations,
            Err(error) => last = vec![error.to_string()],
        }
        if trace::is_broken() {
            return;
        }
        if !last.is_empty() {
            idle_since = None;
        } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE_TIME {
            trace!("all is well");
            return;
        }
    }
    trace::broken(format!("does not come to rest: {}", last.join("; ")));
}
