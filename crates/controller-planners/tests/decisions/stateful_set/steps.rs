//! The steps of a rollout, their pauses and approvals (rollouts.md R6 to R8, R10).

use controller_planners::stateful_set::StatefulSetPlan;
use controller_planners::stateful_set::forecast::{ForecastEnd, RolloutChange, forecast};
use jiff::SignedDuration;

use super::cluster::Cluster;
use super::situation::revision_name;

fn approve(cluster: &mut Cluster, approval: &str) {
    let revision = cluster
        .objects
        .revisions
        .get_mut(&revision_name("b"))
        .unwrap();
    let annotations = revision.metadata.annotations.get_or_insert_default();
    annotations.insert(
        "apps.mainstay.dev/approved-step".to_owned(),
        approval.to_owned(),
    );
}

fn causes(plan: &StatefulSetPlan) -> Vec<String> {
    let waiting = plan.waiting_on.iter();
    waiting.map(|waiting| waiting.cause.to_string()).collect()
}

fn progressing(cluster: &Cluster) -> String {
    let conditions = cluster.set.status.as_ref().unwrap().conditions.as_ref();
    let mut conditions = conditions.unwrap().iter();
    let progressing = conditions.find(|condition| condition.type_ == "Progressing");
    progressing.unwrap().reason.clone().unwrap()
}

/// rollouts.md R6, R7: nothing goes while the pause lasts, and only the approval of this very step ends it.
#[test]
fn a_rollout_pauses_until_its_step_is_approved() {
    for words in ["", "max=3", "parallel max=3", "guard=1"] {
        let mut cluster = Cluster::updated(&format!(
            "set replicas=3 new steps=1:approve,2:approve {words}"
        ));
        let plan = cluster.settle();
        assert_eq!(cluster.log, ["-web-2", "+web-2:b"], "{words}");
        let name = revision_name("b");
        let text = format!("the rollout of {name} pauses after step 1 of 2, until it is approved");
        assert!(causes(&plan).contains(&text), "{:?}", causes(&plan));
        assert_eq!(progressing(&cluster), "RolloutPaused");
        for other in ["1/1", "2/2", "2/10", ""] {
            approve(&mut cluster, other);
            cluster.settle();
            assert_eq!(cluster.log.len(), 2, "{other}");
        }
        approve(&mut cluster, "2/1");
        cluster.settle();
        assert_eq!(cluster.log[2..], ["-web-1", "+web-1:b"], "{words}");
        approve(&mut cluster, "2/2");
        cluster.settle();
        assert_eq!(cluster.shows(), "0:b 1:b 2:b", "{words}");
        assert_eq!(progressing(&cluster), "RolloutComplete");
    }
}

/// rollouts.md R7: the time of a pause counts from the stored record.
#[test]
fn a_pause_has_a_time() {
    let mut cluster = Cluster::updated("set replicas=2 new steps=1:100");
    for _ in 0..6 {
        cluster.step();
        cluster.kubelet();
    }
    assert_eq!(cluster.shows(), "0:a 1:b");
    let later = |cluster: &mut Cluster, seconds| {
        let duration = SignedDuration::from_secs(seconds);
        cluster.now = cluster.now.checked_add(duration).unwrap();
        cluster.step();
        cluster.step()
    };
    let plan = later(&mut cluster, 99);
    let wait = plan.requeue_after.unwrap();
    assert!(wait.as_secs() <= 1, "{wait:?}");
    assert_eq!(cluster.log.len(), 2);
    later(&mut cluster, 1);
    assert_eq!(cluster.log[2..], ["-web-0"]);
}

/// rollouts.md R8: a pod that is lost during a pause comes back as it was, and so does a new ordinal.
#[test]
fn a_missing_pod_beyond_the_step_gets_the_revision_before() {
    for words in ["", "parallel max=2"] {
        let mut cluster = Cluster::updated(&format!("set replicas=3 new steps=1:approve {words}"));
        cluster.settle();
        cluster.delete_pod("web-0");
        cluster.settle();
        assert_eq!(cluster.shows(), "0:a 1:a 2:b", "{words}");
        cluster.edit(|spec| spec.replicas = Some(4));
        cluster.settle();
        assert_eq!(cluster.shows(), "0:a 1:a 2:b 3:a", "{words}");
        // A pod of the step comes back with the update.
        cluster.delete_pod("web-2");
        cluster.settle();
        assert_eq!(cluster.shows(), "0:a 1:a 2:b 3:a", "{words}");
    }
}

/// rollouts.md R6: the pods of one step go together, where that is allowed, and a percentage is of those that may be updated.
#[test]
fn a_step_has_several_pods() {
    let mut cluster = Cluster::updated("set replicas=4 new parallel max=4 steps=50%:approve");
    cluster.step();
    cluster.step();
    assert_eq!(cluster.log, ["-web-3", "-web-2"]);
    let plan = cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:b 3:b");
    assert!(!causes(&plan).is_empty());
    let mut cluster = Cluster::updated("set replicas=4 new partition=2 steps=50%:approve");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:a 3:b");
}

/// rollouts.md R7: another template voids the steps, and one that returns begins again.
#[test]
fn a_template_that_returns_begins_again() {
    let mut cluster = Cluster::updated("set replicas=2 new steps=1:approve");
    cluster.settle();
    approve(&mut cluster, "2/1");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:b 1:b");
    cluster.set_image("a");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:b 1:a");
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:b 1:b");
    // The rollout to a is over; the next one to b is another one, with another number.
    cluster.set_image("c");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:b 1:c");
}

/// rollouts.md R6, R13: a pod that a former template broke is replaced also during a pause.
#[test]
fn a_broken_pod_of_a_former_template_is_replaced() {
    let mut cluster = Cluster::updated("set replicas=3 new steps=1:approve");
    cluster.set_image("bad");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:bad!");
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.shows(), "0:a 1:a 2:b");
}

/// rollouts.md R18: a forecast has the pauses, and goes on after each.
#[test]
fn a_forecast_has_the_pauses() {
    let cluster = Cluster::updated("set replicas=2 new steps=1:approve");
    let told = forecast(cluster.objects.clone(), cluster.now).unwrap();
    assert_eq!(told.end, ForecastEnd::Complete);
    let words = told.steps.iter().map(|step| match &step.change {
        RolloutChange::DeletePod { pod, .. } => format!("-{pod}"),
        RolloutChange::Wait { causes } => causes[0].to_string(),
        _ => "+".to_owned(),
    });
    let name = revision_name("b");
    let pause = format!("the rollout of {name} pauses after step 1 of 1, until it is approved");
    assert_eq!(
        words.collect::<Vec<_>>(),
        ["-web-1", "+", &pause, "-web-0", "+"]
    );
}
