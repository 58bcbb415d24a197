//! The restart of all containers of a pod by the rule action `RestartAllContainers` (KEP-5532,
//! statefulset.md §12.4).
//!
//! First all containers are killed at once, without hook and without grace period. Then the pod starts like
//! a new one, init containers first, with its existing sandbox, address and volumes. Ephemeral containers
//! are not affected. Each container keeps its restart delay.

use super::action::LifecycleAction;
use super::planner::Planner;
use super::stopping;
use crate::limits::KILL_AGAIN;
use crate::record::{Instance, Running, StopCause};
use crate::spec::containers;

/// Stops all containers. As soon as no container runs, they start again.
pub(crate) fn end_all(planner: &mut Planner<'_>) {
    let mut is_running = false;
    let mut names = Vec::new();
    for (_, container) in containers(planner.spec) {
        names.push(container.name.clone());
        let record = planner.input.record.containers.get(&container.name);
        match record.map(|record| &record.instance) {
            Some(Instance::Running(running)) => {
                is_running = true;
                if running.stop.is_none() {
                    stopping::begin_at_once(planner, container, StopCause::AllRestart);
                } else {
                    kill(planner, &container.name, running);
                }
            }
            Some(Instance::Starting { .. }) => {
                is_running = true;
                planner.wait(&container.name, "start");
            }
            Some(Instance::Absent | Instance::Refused(_) | Instance::Exited(_)) | None => {}
        }
    }
    if !is_running {
        planner.act(LifecycleAction::StartAnew { containers: names });
    }
}

fn kill(planner: &mut Planner<'_>, container: &str, running: &Running) {
    let killed = running.stop.as_ref().and_then(|stop| stop.killed_at);
    match killed.map(|at| at + KILL_AGAIN) {
        Some(due) if due > planner.now.instant => {
            planner.wake(due);
            planner.wait(container, "its process to end");
        }
        _ => planner.act(LifecycleAction::Kill {
            container: container.to_owned(),
        }),
    }
}
