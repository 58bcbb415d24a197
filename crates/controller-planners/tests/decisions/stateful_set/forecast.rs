//! The forecast of a rollout (rollouts.md R18, R21).

use std::collections::BTreeMap;

use controller_planners::stateful_set::ClaimEdit;
use controller_planners::stateful_set::forecast::{
    Forecast, ForecastEnd, Objects, RolloutChange, forecast,
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use resource_kinds::stateful_set_policy::Purpose;

use super::cluster::{Cluster, answer_hook, set_ready};
use super::situation;

const THREE: &str = "revisions a=1\npod 0 ready a\npod 1 ready a\npod 2 ready a";

fn forecast_of(cluster: &Cluster) -> Forecast {
    forecast(cluster.objects.clone(), cluster.now).unwrap()
}

/// The image of a revision's name.
fn image(revision: &str) -> String {
    let images = ["a", "b", "c", "bad"].into_iter();
    let mut images = images.filter(|image| situation::revision_name(image) == revision);
    images.next().unwrap_or("?").to_owned()
}

/// A change in the words of the cluster's log.
fn word(change: &RolloutChange) -> String {
    match change {
        RolloutChange::CreatePod { pod, revision } => format!("+{pod}:{}", image(revision)),
        RolloutChange::DeletePod { pod, .. } => format!("-{pod}"),
        RolloutChange::AdoptPod { pod } => format!("adopt {pod}"),
        RolloutChange::RunHook {
            pod,
            hook,
            is_cancelled,
        } => {
            let back = if *is_cancelled { "undo " } else { "" };
            format!("{back}{hook} {pod}")
        }
        RolloutChange::ReleasePod { pod } => format!("release {pod}"),
        RolloutChange::CreateClaim { claim } => format!("+{claim}"),
        RolloutChange::DeleteClaim { claim } => format!("-{claim}"),
        RolloutChange::EditClaim { claim, edit } => match edit {
            ClaimEdit::Metadata(_) => format!("label {claim}"),
            ClaimEdit::Volume(edit) => {
                format!("{claim}={}", edit.storage.as_deref().unwrap_or("?"))
            }
        },
        RolloutChange::RejectRevision { pod, .. } => format!("rejected {pod}"),
        RolloutChange::Wait { causes } => {
            let causes: Vec<String> = causes.iter().map(ToString::to_string).collect();
            format!("wait: {}", causes.join("; "))
        }
    }
}

fn words(forecast: &Forecast) -> Vec<String> {
    let steps = forecast.steps.iter();
    steps.map(|step| word(&step.change)).collect()
}

/// rollouts.md R18: an update is told pod by pod, from the highest, and nothing is written.
#[test]
fn an_update_is_told_in_order() {
    let mut cluster = Cluster::new(&format!("set replicas=3\n{THREE}"));
    cluster.settle();
    cluster.set_image("b");
    let before = cluster.pods.clone();
    let told = forecast_of(&cluster);
    let order = [
        "-web-2", "+web-2:b", "-web-1", "+web-1:b", "-web-0", "+web-0:b",
    ];
    assert_eq!(words(&told), order);
    assert_eq!(told.end, ForecastEnd::Complete);
    assert_eq!(told.update_revision, situation::revision_name("b"));
    assert!(told.pods.values().all(|revision| image(revision) == "b"));
    assert_eq!(cluster.pods, before);
    let rounds: Vec<usize> = told.steps.iter().map(|step| step.round).collect();
    assert!(rounds.is_sorted() && rounds[1] < rounds[2], "{rounds:?}");
}

/// rollouts.md R18: pods that go together are of one round.
#[test]
fn pods_that_go_together_are_told_together() {
    let mut cluster = Cluster::new(&format!("set replicas=3 parallel max=2\n{THREE}"));
    cluster.settle();
    cluster.set_image("b");
    let told = forecast_of(&cluster);
    let first: Vec<String> = told
        .steps
        .iter()
        .filter(|step| step.round == told.steps[0].round)
        .map(|step| word(&step.change))
        .collect();
    assert_eq!(first, ["-web-2", "-web-1"]);
}

/// rollouts.md R18, S2: a set at rest has no changes.
#[test]
fn a_set_at_rest_has_no_changes() {
    let mut cluster = Cluster::new(&format!("set replicas=3\n{THREE}"));
    cluster.settle();
    let told = forecast_of(&cluster);
    assert_eq!(words(&told), Vec::<String>::new());
    assert_eq!(told.end, ForecastEnd::Complete);
    assert_eq!(told.waiting_now, []);
}

/// rollouts.md R18: a new set.
#[test]
fn a_new_set_is_told() {
    let cluster = Cluster::new("set replicas=2 new claims=www");
    let told = forecast_of(&cluster);
    let order = ["+www-web-0", "+web-0:a", "+www-web-1", "+web-1:a"];
    assert_eq!(words(&told), order);
}

/// rollouts.md R18: pods below a partition stay.
#[test]
fn pods_below_a_partition_stay() {
    let mut cluster = Cluster::new(&format!("set replicas=3 partition=2\n{THREE}"));
    cluster.settle();
    cluster.set_image("b");
    let told = forecast_of(&cluster);
    assert_eq!(words(&told), ["-web-2", "+web-2:b"]);
    let pods: Vec<String> = told.pods.values().map(|revision| image(revision)).collect();
    assert_eq!(pods, ["a", "a", "b"]);
}

/// rollouts.md R18: a scale-down tells the claims that the retention policy deletes, with their data.
#[test]
fn deleted_claims_are_told() {
    let mut cluster = Cluster::new("set replicas=2 new claims=www scaled=Delete");
    cluster.settle();
    cluster.edit(|spec| spec.replicas = Some(1));
    let told = forecast_of(&cluster);
    assert_eq!(words(&told), ["-web-1", "-www-web-1"]);
    let RolloutChange::DeletePod { purpose, .. } = &told.steps[0].change else {
        panic!("{:?}", told.steps);
    };
    assert_eq!(*purpose, Purpose::ScaleDown);
}

/// rollouts.md R18: a pod that does not work is waited for where the rollout needs it; it is not made ready in silence.
#[test]
fn a_wait_for_a_broken_pod_is_told() {
    let mut cluster = Cluster::new(&format!("set replicas=3\n{THREE}"));
    cluster.settle();
    let now = cluster.now;
    set_ready(cluster.pods.get_mut("web-1").unwrap(), false, now);
    cluster.step();
    cluster.set_image("b");
    let told = forecast_of(&cluster);
    assert!(
        words(&told)[0].starts_with("wait: pod web-1 is not ready"),
        "{:?}",
        words(&told)
    );
    assert_eq!(words(&told)[1], "-web-2");
    assert!(!told.waiting_now.is_empty());
}

/// rollouts.md R18, R27: a guard that needs all pods holds an update without end.
#[test]
fn a_guard_that_never_opens_is_told() {
    let mut cluster = Cluster::new(&format!("set replicas=3 guard=100%\n{THREE}"));
    cluster.settle();
    cluster.set_image("b");
    let told = forecast_of(&cluster);
    assert_eq!(words(&told), Vec::<String>::new());
    let ForecastEnd::Held(causes) = &told.end else {
        panic!("{:?}", told.end);
    };
    let text = causes[0].cause.to_string();
    assert!(text.starts_with("the guard of StatefulSetPolicy"), "{text}");
}

/// rollouts.md R18: with `OnDelete` somebody else has to delete the pods.
#[test]
fn on_delete_is_told() {
    let mut cluster = Cluster::new(&format!("set replicas=3 on-delete\n{THREE}"));
    cluster.settle();
    cluster.set_image("b");
    let told = forecast_of(&cluster);
    assert_eq!(words(&told), Vec::<String>::new());
    assert!(matches!(told.end, ForecastEnd::Held(_)), "{:?}", told.end);
}

/// rollouts.md R18, C5: volumes grow one after the other, from the highest ordinal.
#[test]
fn growing_volumes_are_told_in_order() {
    let mut cluster = Cluster::new("set replicas=3 new claims=www size=1 claim-updates=InPlace");
    cluster.settle();
    cluster.grow_volumes(&[]);
    cluster.settle();
    cluster.edit(|spec| {
        for template in spec.volume_claim_templates.iter_mut().flatten() {
            let spec = template.spec.as_mut().unwrap();
            let requests = spec.resources.as_mut().unwrap().requests.as_mut().unwrap();
            requests.get_mut("storage").unwrap().0 = "9Gi".to_owned();
        }
    });
    let told = forecast_of(&cluster);
    assert_eq!(
        words(&told),
        ["www-web-2=9Gi", "www-web-1=9Gi", "www-web-0=9Gi"]
    );
    let rounds: Vec<usize> = told.steps.iter().map(|step| step.round).collect();
    assert!(rounds[0] < rounds[1] && rounds[1] < rounds[2], "{rounds:?}");
}

/// rollouts.md R18: a set that is too large has the beginning of its forecast.
#[test]
fn the_forecast_of_a_large_set_is_bounded() {
    let cluster = Cluster::new("set replicas=6000 new parallel");
    let told = forecast_of(&cluster);
    assert_eq!(told.end, ForecastEnd::Unfinished);
}

/// An edit of the set.
#[derive(Clone, Debug)]
enum Edit {
    Image(&'static str),
    Replicas(i32),
    Partition(i32),
    Start(i32),
}

fn apply(cluster: &mut Cluster, edit: &Edit) {
    match edit {
        Edit::Image(image) => cluster.set_image(image),
        Edit::Replicas(replicas) => cluster.edit(|spec| spec.replicas = Some(*replicas)),
        Edit::Start(start) => cluster.edit(|spec| {
            spec.ordinals.get_or_insert_default().start = Some(*start);
        }),
        Edit::Partition(partition) => cluster.edit(|spec| {
            let strategy = spec.update_strategy.as_mut().unwrap();
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.partition = Some(*partition);
        }),
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        prop::sample::select(vec!["a", "b", "c"]).prop_map(Edit::Image),
        (0..6).prop_map(Edit::Replicas),
        (0..4).prop_map(Edit::Partition),
        (0..3).prop_map(Edit::Start),
    ];
    prop::collection::vec(edit, 1..3)
}

fn set() -> impl Strategy<Value = String> {
    let words = [
        "parallel",
        "max=2",
        "max=50%",
        "start=1",
        "min-ready=5",
        "claims=www",
        "scaled=Delete",
        "guard=Quorum",
        "guard=60%",
        "on-failure=Rollback",
        "recreate on-failure=Hold",
        "on-delete",
        "order=ordinals:1+3",
        "hooks=drain:Update+ScaleDown",
        "steps=1:2,50%",
        "hooks=drain:Update+ScaleDown,leave:ScaleDown cancel",
    ];
    let words = prop::sample::subsequence(words.to_vec(), 0..5);
    (0..6, words)
        .prop_map(|(replicas, words)| format!("set replicas={replicas} new {}", words.join(" ")))
}

/// Lets a pod start or end, if it is selected: each pod takes its own time.
fn kubelet(cluster: &mut Cluster, selected: &mut impl Iterator<Item = bool>) {
    let now = cluster.now;
    let names: Vec<String> = cluster.pods.keys().cloned().collect();
    for name in names {
        if !selected.next().unwrap() {
            continue;
        }
        let pod = cluster.pods.get_mut(&name).unwrap();
        if pod.metadata.deletion_timestamp.is_some() {
            cluster.pods.remove(&name);
        } else {
            set_ready(pod, true, now);
        }
    }
    // Pods whose hooks run side by side go in the order in which the hooks end, which nobody can tell.
    for pod in cluster.objects.pods.values_mut() {
        answer_hook(pod, now);
    }
    cluster.objects.collect_claims();
}

/// The pods and claims, without times and UIDs.
fn outcome(objects: &Objects) -> (BTreeMap<String, String>, Vec<String>) {
    let label =
        |pod: &Pod| pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"].clone();
    let pods = objects.pods.iter();
    let pods = pods.map(|(name, pod)| (name.clone(), label(pod)));
    (pods.collect(), objects.claims.keys().cloned().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// rollouts.md R21: without faults, what was told is what happens, whatever time each pod takes: the same writes to
    /// pods, the pods that exist go in the same order, and the same pods are there at the end.
    #[test]
    fn what_was_told_happens(
        set in set(),
        edits in edits(),
        pace in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let mut cluster = Cluster::new(&set);
        cluster.settle();
        cluster.log.clear();
        for edit in &edits {
            apply(&mut cluster, edit);
        }
        let told = forecast_of(&cluster);
        // A pod that is never selected would never start, so each fourth round is for all pods.
        let mut selected = pace.iter().copied().cycle();
        let mut quiet = 0;
        for round in 0..400 {
            let writes = cluster.log.len();
            while !cluster.step().is_idle() {}
            quiet = if cluster.log.len() == writes { quiet + 1 } else { 0 };
            if quiet > 12 {
                break;
            }
            match round % 4 {
                3 => kubelet(&mut cluster, &mut std::iter::repeat(true)),
                _ => kubelet(&mut cluster, &mut selected),
            }
            cluster.now = cluster.now.checked_add(SignedDuration::from_secs(1)).unwrap();
        }
        let is_of_pods = |word: &String| {
            word.contains("web-") && !word.contains("www") && !word.starts_with("wait")
        };
        let told_words: Vec<String> = words(&told).into_iter().filter(is_of_pods).collect();
        let deletions = |all: &[String]| -> Vec<String> {
            all.iter().filter(|word| word.starts_with('-')).cloned().collect()
        };
        prop_assert_eq!(deletions(&told_words), deletions(&cluster.log), "{} {:?}", set, edits);
        let sorted = |all: &[String]| { let mut all = all.to_vec(); all.sort(); all };
        prop_assert_eq!(sorted(&told_words), sorted(&cluster.log), "{} {:?}", set, edits);
        prop_assert_eq!(&told.pods, &outcome(&cluster.objects).0, "{} {:?}", set, edits);
    }
}
