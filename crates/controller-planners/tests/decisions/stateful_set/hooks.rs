//! The hooks of a policy before a pod goes (rollouts.md R22 to R26).

use controller_planners::stateful_set::{Cause, StatefulSetAction, StatefulSetPlan};
use jiff::SignedDuration;

use super::cluster::{Cluster, answer_hook};

fn later(cluster: &mut Cluster, seconds: i64) {
    let duration = SignedDuration::from_secs(seconds);
    cluster.now = cluster.now.checked_add(duration).unwrap();
}

fn answer(cluster: &mut Cluster, pod: &str) {
    let now = cluster.now;
    answer_hook(cluster.objects.pods.get_mut(pod).unwrap(), now);
}

fn scale(cluster: &mut Cluster, replicas: i32) {
    cluster.edit(|spec| spec.replicas = Some(replicas));
}

/// Plans until nothing is written.
fn plans(cluster: &mut Cluster) -> StatefulSetPlan {
    for _ in 0..20 {
        let plan = cluster.step();
        if plan.is_idle() {
            return plan;
        }
    }
    panic!("does not come to rest: {:?}", cluster.log);
}

fn causes(plan: &StatefulSetPlan) -> Vec<String> {
    let waiting = plan.waiting_on.iter();
    let hooks = waiting.filter(|waiting| {
        let cause = &waiting.cause;
        matches!(cause, Cause::HookRuns { .. } | Cause::HookTimedOut { .. })
    });
    hooks.map(|waiting| waiting.cause.to_string()).collect()
}

/// rollouts.md R22, R23: the hold of each pod is written before its hook runs, and the pod goes after the hook.
#[test]
fn a_hook_runs_before_each_pod_goes() {
    for words in ["", "guard=1", "parallel max=1", "max=1"] {
        let mut cluster =
            Cluster::settled(&format!("set replicas=2 new hooks=drain:Update {words}"));
        cluster.set_image("b");
        cluster.settle();
        let expected = [
            "drain web-1",
            "-web-1",
            "+web-1:b",
            "drain web-0",
            "-web-0",
            "+web-0:b",
        ];
        assert_eq!(cluster.log, expected, "{words}");
    }
}

/// rollouts.md R23: a pod whose hook runs stays, and goes exactly as it was read when the hook was done.
#[test]
fn a_pod_stays_while_its_hook_runs() {
    let mut cluster = Cluster::settled("set replicas=2 new hooks=drain:Update");
    cluster.set_image("b");
    let plan = plans(&mut cluster);
    assert_eq!(cluster.log, ["drain web-1"]);
    let text = "hook drain runs before pod web-1 goes for Update, at most until";
    assert!(causes(&plan)[0].starts_with(text), "{:?}", causes(&plan));
    answer(&mut cluster, "web-1");
    let plan = cluster.step();
    let version = plan.actions().find_map(|action| match action {
        StatefulSetAction::DeletePod { version, .. } => Some(*version),
        _ => None,
    });
    assert!(version.unwrap().is_some());
}

/// rollouts.md R22: the hooks of a purpose run one after the other, and no others.
#[test]
fn hooks_run_one_after_the_other() {
    let hooks = "hooks=drain:Update+ScaleDown,leave:ScaleDown";
    let mut cluster = Cluster::settled(&format!("set replicas=2 new {hooks}"));
    scale(&mut cluster, 1);
    cluster.settle();
    assert_eq!(cluster.log, ["drain web-1", "leave web-1", "-web-1"]);
    cluster.log.clear();
    cluster.set_image("b");
    cluster.settle();
    assert_eq!(cluster.log, ["drain web-0", "-web-0", "+web-0:b"]);
}

/// rollouts.md R24: a hook that is done for an update runs anew for a scale-down.
#[test]
fn a_hook_is_done_for_one_purpose() {
    let mut cluster = Cluster::settled("set replicas=2 new hooks=drain:Update+ScaleDown");
    cluster.set_image("b");
    plans(&mut cluster);
    answer(&mut cluster, "web-1");
    scale(&mut cluster, 1);
    plans(&mut cluster);
    assert_eq!(cluster.log, ["drain web-1", "drain web-1"]);
    cluster.settle();
    let expected = ["-web-1", "drain web-0", "-web-0", "+web-0:b"];
    assert_eq!(cluster.log[2..], expected);
}

/// rollouts.md R24, R25: a pod that is emptied is not restarted for an update: first its hook is taken back.
#[test]
fn a_pod_that_is_emptied_is_not_restarted() {
    let mut cluster = Cluster::settled("set replicas=2 new hooks=drain:ScaleDown cancel");
    scale(&mut cluster, 1);
    plans(&mut cluster);
    cluster.set_image("b");
    scale(&mut cluster, 2);
    cluster.hooks_fail = true;
    cluster.kubelet();
    let plan = plans(&mut cluster);
    assert_eq!(cluster.log, ["drain web-1", "undo drain web-1"]);
    let text = "hook drain of pod web-1 is taken back, at most until";
    assert!(causes(&plan)[0].starts_with(text), "{:?}", causes(&plan));
    cluster.hooks_fail = false;
    cluster.settle();
    assert_eq!(
        cluster.log[2..],
        ["-web-1", "+web-1:b", "-web-0", "+web-0:b"]
    );
}

/// rollouts.md R25: without a `cancel` action, the hold ends at once.
#[test]
fn a_hold_without_a_reason_ends() {
    let mut cluster = Cluster::settled("set replicas=2 new hooks=drain:Update");
    cluster.set_image("b");
    plans(&mut cluster);
    cluster.set_image("a");
    plans(&mut cluster);
    assert_eq!(cluster.log, ["drain web-1"]);
    let annotations = cluster.pods["web-1"].metadata.annotations.clone();
    assert_eq!(annotations.unwrap_or_default().len(), 0);
    cluster.set_image("b");
    plans(&mut cluster);
    assert_eq!(cluster.log, ["drain web-1", "drain web-1"], "it runs anew");
}

/// rollouts.md R25: a hook that is late holds the pod, or lets it go.
#[test]
fn a_late_hook_has_an_answer() {
    for (words, goes) in [("", false), ("proceed", true)] {
        let mut cluster =
            Cluster::settled(&format!("set replicas=2 new hooks=drain:Update {words}"));
        cluster.hooks_fail = true;
        cluster.set_image("b");
        plans(&mut cluster);
        later(&mut cluster, 60);
        let plan = cluster.step();
        assert_eq!(cluster.log.contains(&"-web-1".to_owned()), goes, "{words}");
        if !goes {
            let text = "hook drain has not succeeded in time, so pod web-1 does not go for Update";
            assert_eq!(causes(&plan), [text]);
            let conditions = cluster.set.status.as_ref().unwrap().conditions.as_ref();
            let mut conditions = conditions.unwrap().iter();
            let stalled = conditions
                .find(|condition| condition.type_ == "Stalled")
                .unwrap();
            assert_eq!(
                (stalled.status.as_str(), stalled.reason.as_deref()),
                ("True", Some("HookTimedOut"))
            );
            // A late success counts.
            answer(&mut cluster, "web-1");
            cluster.step();
            assert!(cluster.log.contains(&"-web-1".to_owned()));
        }
    }
}

/// rollouts.md R31: a pod that is down goes without hooks for an update, and not for a scale-down.
#[test]
fn a_pod_that_is_down_has_no_hooks_for_an_update() {
    let pods = "revisions a=1\npod 0 ready a\npod 1 running a";
    let hooks = "parallel max=1 hooks=drain:Update+ScaleDown";
    let mut cluster = Cluster::new(&format!("set replicas=2 {hooks}\n{pods}"));
    cluster.set_image("b");
    cluster.step();
    assert_eq!(cluster.log, ["-web-1"]);
    let mut cluster = Cluster::new(&format!("set replicas=1 {hooks}\n{pods}"));
    plans(&mut cluster);
    assert_eq!(cluster.log, ["drain web-1"]);
}

/// rollouts.md R23: a pod that is not ready because of its hook is not down, and holds no other pod.
#[test]
fn a_hook_may_make_its_pod_not_ready() {
    for words in ["", "max=1", "parallel max=1", "guard=1", "order=ordinals:1"] {
        let pods = "revisions a=1 b=2\npod 0 ready a\npod 1 running a was-ready hold=Update";
        let set = "set replicas=2 template=b current=a hooks=drain:Update";
        let mut cluster = Cluster::new(&format!("{set} {words}\n{pods}"));
        plans(&mut cluster);
        assert_eq!(cluster.log, [""; 0], "{words}");
        answer(&mut cluster, "web-1");
        cluster.step();
        assert_eq!(cluster.log, ["-web-1"], "{words}");
    }
}

/// rollouts.md R26: the hooks of an eviction go on while the eviction is expected again; later they are taken back.
#[test]
fn an_eviction_that_is_not_repeated_is_taken_back() {
    let pods = "revisions a=1\npod 0 ready a\npod 1 ready a hold=Evict";
    let set = "set replicas=2 hooks=drain:Evict,leave:Evict cancel";
    let mut cluster = Cluster::new(&format!("{set}\n{pods}"));
    plans(&mut cluster);
    answer(&mut cluster, "web-1");
    plans(&mut cluster);
    assert_eq!(cluster.log, ["leave web-1"]);
    later(&mut cluster, 300);
    cluster.settle();
    assert_eq!(
        cluster.log,
        ["leave web-1", "undo leave web-1", "undo drain web-1"]
    );
    let annotations = cluster.pods["web-1"].metadata.annotations.clone();
    assert_eq!(annotations.unwrap_or_default().len(), 0);
}

/// rollouts.md R22, R34: with Recreate, the hooks of all pods run side by side, and the guard holds none.
#[test]
fn hooks_run_before_all_pods_end() {
    let words = "recreate on-failure=Hold guard=Quorum hooks=drain:Update";
    let mut cluster = Cluster::settled(&format!("set replicas=2 new {words}"));
    cluster.set_image("b");
    cluster.settle();
    let expected = [
        "drain web-1",
        "drain web-0",
        "-web-1",
        "-web-0",
        "+web-0:b",
        "+web-1:b",
    ];
    assert_eq!(cluster.log, expected);
}

/// rollouts.md R16, R22: the return from a rejected revision is a purpose of its own.
#[test]
fn a_rollback_has_its_own_hooks() {
    let hooks = "hooks=drain:Update,leave:Rollback";
    let pods = "revisions a=1 b=2!\npod 0 ready a\npod 1 ready b";
    let set = "set replicas=2 template=b current=a on-failure=Rollback";
    let mut cluster = Cluster::new(&format!("{set} {hooks}\n{pods}"));
    cluster.settle();
    assert_eq!(cluster.log, ["leave web-1", "-web-1", "+web-1:a"]);
}

/// rollouts.md R22: a stuck pod whose hook is done is replaced, also while a surplus pod is emptied.
#[test]
fn a_stuck_pod_goes_after_its_hook() {
    let hooks = "hooks=drain:Update+ScaleDown claims=www claim-updates=InPlace";
    let pods = "revisions a=1\npod 0 running a hold=Update done\npod 1 ready a";
    let mut cluster = Cluster::new(&format!("set replicas=1 {hooks}\n{pods}"));
    cluster.step();
    assert_eq!(cluster.log, ["drain web-1", "-web-0"]);
}

/// rollouts.md R23: a hook that is done gives no place beside the budget, and none before its turn.
#[test]
fn a_held_pod_waits_for_its_turn() {
    let pods = "revisions a=1 b=2\npod 0 ready a\npod 1 ready b hold=Update done\npod 2 ready b";
    let set = "set replicas=3 template=a current=a max=1 hooks=drain:Update";
    let mut cluster = Cluster::new(&format!("{set}\n{pods}"));
    plans(&mut cluster);
    assert_eq!(cluster.log, ["drain web-2"]);
    cluster.settle();
    let expected = ["-web-2", "+web-2:a", "-web-1", "+web-1:a"];
    assert_eq!(cluster.log[1..], expected);
}
