//! Hooks that run before a pod goes (rollouts.md R22 to R26), and the hold that keeps the pod meanwhile.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::check::GuardCheck;

/// The time for which an eviction is expected again. A program that drains a node repeats its request every few seconds.
pub const EVICTION_EXPECTED: SignedDuration = SignedDuration::from_mins(5);

/// The time after which the hold of a repeated eviction has a new time of its request.
pub const REQUEST_RENEWED: SignedDuration = SignedDuration::from_mins(1);

/// A hook of `spec.hooks` of a policy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyHook {
    /// The name, unique in the policy.
    pub name: String,
    pub before: Vec<HookPurpose>,
    /// The roles whose pods have the hook; empty for all pods.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The action in the pod; without one, a person or a program answers by an annotation of the pod.
    #[serde(flatten)]
    pub check: GuardCheck,
    #[serde(default)]
    pub on_timeout: TimeoutAnswer,
    /// The action if the pod does not go any more.
    #[serde(default)]
    pub cancel: Option<GuardCheck>,
}

impl PolicyHook {
    /// The time limit, of the whole hook and of each run.
    fn timeout(check: &GuardCheck) -> SignedDuration {
        let seconds = check.timeout_seconds.filter(|seconds| *seconds > 0);
        SignedDuration::from_secs(i64::from(seconds.unwrap_or(HOOK_SECONDS)))
    }

    /// Whether the hook is for a pod of this role that goes for this purpose. A pod whose role is unknown has the hooks of
    /// all roles.
    fn concerns(&self, purpose: HookPurpose, role: Option<&str>) -> bool {
        let has_role = |role: &str| self.roles.iter().any(|one| one == role);
        self.before.contains(&purpose) && (self.roles.is_empty() || role.is_none_or(has_role))
    }
}

/// The default time limit of a hook, in seconds.
const HOOK_SECONDS: i32 = 600;

/// The hooks for a pod of this role that goes for this purpose.
pub fn hooks_before<'h>(
    hooks: &'h [PolicyHook],
    purpose: HookPurpose,
    role: Option<&str>,
) -> Vec<&'h PolicyHook> {
    let hooks = hooks.iter();
    hooks.filter(|hook| hook.concerns(purpose, role)).collect()
}

/// The reason why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookPurpose {
    Update,
    /// The return from a rejected revision.
    Rollback,
    /// An eviction by a user, such as a drain.
    Evict,
    ScaleDown,
}

impl HookPurpose {
    /// All purposes.
    pub const ALL: [Self; 4] = [Self::Update, Self::Rollback, Self::Evict, Self::ScaleDown];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Update => "Update",
            Self::Rollback => "Rollback",
            Self::Evict => "Evict",
            Self::ScaleDown => "ScaleDown",
        }
    }

    /// Whether a hold for this purpose stays although the pod would go for another one: a pod that is emptied is never restarted
    /// for an update (rollouts.md R24).
    pub fn outranks(self, other: Self) -> bool {
        let rank = |purpose| match purpose {
            Self::Update | Self::Rollback => 0,
            Self::Evict => 1,
            Self::ScaleDown => 2,
        };
        rank(self) > rank(other)
    }
}

/// The answer to a hook that has not succeeded in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TimeoutAnswer {
    /// The pod stays until the hook succeeds.
    #[default]
    Hold,
    /// The pod goes.
    Proceed,
}

/// The hold of a pod, as the annotation [`HOOK`](crate::annotations::HOOK) of the pod has it: the purpose, the hook that
/// runs, and the hooks that are done. The node runs the action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodHold {
    /// Unique for each run of a hook; the answer contains it. Empty before the first hook.
    #[serde(default)]
    pub id: String,
    pub purpose: HookPurpose,
    /// The hook that runs; `None` before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The start of the hook.
    pub since: Timestamp,
    /// The end of the time limit of the hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The hooks before the present one, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<String>,
    /// Whether the pod does not go any more, and the hooks are taken back, the last one first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancels: bool,
    /// The time of the eviction that is expected again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Timestamp>,
    /// The action that the node runs.
    #[serde(flatten)]
    pub check: GuardCheck,
}

impl PodHold {
    /// A hold without a hook.
    pub fn new(purpose: HookPurpose, now: Timestamp) -> Self {
        Self {
            id: String::new(),
            purpose,
            hook: None,
            since: now,
            until: None,
            done: Vec::new(),
            cancels: false,
            requested: (purpose == HookPurpose::Evict).then_some(now),
            check: GuardCheck::default(),
        }
    }

    /// The hold in an annotation; `None` if it cannot be read.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The text of the annotation.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The hold with the next hook, after the present one is done.
    pub fn begin(&self, hook: &PolicyHook, now: Timestamp) -> Self {
        let done = self.done.iter().chain(&self.hook).cloned().collect();
        self.run(hook, &hook.check, done, now)
    }

    /// The hold in which the last hook is taken back that can be; `None` if there is none.
    pub fn cancel(&self, hooks: &[PolicyHook], now: Timestamp) -> Option<Self> {
        let mut begun: Vec<String> = self.done.clone();
        if !self.cancels {
            begun.extend(self.hook.clone());
        }
        while let Some(name) = begun.pop() {
            let hook = hooks.iter().find(|hook| hook.name == name);
            if let Some((hook, cancel)) = hook.and_then(|hook| Some((hook, hook.cancel.as_ref()?)))
            {
                let cancelling = Self {
                    cancels: true,
                    requested: None,
                    ..self.clone()
                };
                return Some(cancelling.run(hook, cancel, begun, now));
            }
        }
        None
    }

    fn run(
        &self,
        hook: &PolicyHook,
        check: &GuardCheck,
        done: Vec<String>,
        now: Timestamp,
    ) -> Self {
        let timeout = PolicyHook::timeout(check);
        let (purpose, name) = (self.purpose.as_str(), &hook.name);
        let kind = if self.cancels { "cancel/" } else { "" };
        // Each run of a hook may take the whole time.
        let check = GuardCheck {
            timeout_seconds: Some(i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX)),
            ..check.clone()
        };
        Self {
            id: format!("{kind}{purpose}/{name}/{now}"),
            hook: Some(name.clone()),
            since: now,
            until: Some(now.checked_add(timeout).unwrap_or(Timestamp::MAX)),
            done,
            check,
            ..self.clone()
        }
    }

    /// Whether the present hook is done, by the answer of the node or of a person.
    pub fn is_answered_by(&self, answers: HookAnswers<'_>) -> bool {
        let is_own = |id: Option<&str>| !self.id.is_empty() && id == Some(self.id.as_str());
        is_own(answers.node) || is_own(answers.annotation)
    }

    /// Whether the time limit of the present hook has passed.
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// The present state of the hooks that a pod of this role has for the purpose of the hold.
    pub fn state<'h>(
        &self,
        hooks: &'h [PolicyHook],
        role: Option<&str>,
        answers: HookAnswers<'_>,
        now: Timestamp,
    ) -> HookState<'h> {
        let own = hooks_before(hooks, self.purpose, role);
        if let Some(name) = &self.hook
            && let Some(hook) = own.iter().find(|hook| hook.name == *name)
            && !self.is_answered_by(answers)
        {
            match (self.is_late(now), hook.on_timeout) {
                (false, _) => return HookState::Runs,
                (true, TimeoutAnswer::Hold) => return HookState::Late,
                (true, TimeoutAnswer::Proceed) => {}
            }
        }
        let is_over = |hook: &PolicyHook| {
            self.hook.as_ref() == Some(&hook.name) || self.done.contains(&hook.name)
        };
        match own.into_iter().find(|hook| !is_over(hook)) {
            Some(next) => HookState::Next(next),
            None => HookState::Done,
        }
    }

    /// The time from which the eviction is not expected any more; `None` if the hold is for none.
    pub fn expected_until(&self) -> Option<Timestamp> {
        let requested = self.requested?;
        Some(
            requested
                .checked_add(EVICTION_EXPECTED)
                .unwrap_or(Timestamp::MAX),
        )
    }
}

/// The answers to the hook of a pod: the id of the run that has succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookAnswers<'a> {
    /// The message of the true condition of the pod.
    pub node: Option<&'a str>,
    /// The annotation of the pod.
    pub annotation: Option<&'a str>,
}

/// The state of the hooks of a held pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HookState<'h> {
    /// This hook is to begin.
    Next(&'h PolicyHook),
    Runs,
    /// The time limit has passed, and the pod stays.
    Late,
    /// All hooks are done.
    Done,
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn hooks() -> Vec<PolicyHook> {
        let value = json!([
            {"name": "drain", "before": ["Update", "ScaleDown"], "exec": {"command": ["/drain"]},
                "timeoutSeconds": 60, "cancel": {"exec": {"command": ["/undrain"]}}},
            {"name": "leave", "before": ["ScaleDown"], "onTimeout": "Proceed"},
            {"name": "handover", "before": ["Update"], "roles": ["leader"],
                "exec": {"command": ["/handover"]}}]);
        json_tree::from_value(value).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn answered(hold: &PodHold) -> HookAnswers<'_> {
        HookAnswers {
            node: Some(&hold.id),
            annotation: None,
        }
    }

    fn names(purpose: HookPurpose, role: Option<&str>) -> Vec<String> {
        let hooks = hooks();
        let own = hooks_before(&hooks, purpose, role);
        own.iter().map(|hook| hook.name.clone()).collect()
    }

    /// rollouts.md R22: a hook has purposes, and roles.
    #[test]
    fn a_pod_has_the_hooks_of_its_purpose_and_role() {
        assert_eq!(names(HookPurpose::ScaleDown, None), ["drain", "leave"]);
        assert_eq!(
            names(HookPurpose::Update, Some("leader")),
            ["drain", "handover"]
        );
        assert_eq!(names(HookPurpose::Update, Some("follower")), ["drain"]);
        assert_eq!(names(HookPurpose::Update, None), ["drain", "handover"]);
        assert_eq!(names(HookPurpose::Evict, None), [""; 0]);
    }

    /// rollouts.md R23, R24: the hooks run one after the other, and only the answer to the present run counts.
    #[test]
    fn hooks_run_in_order() {
        let hooks = hooks();
        let state = |hold: &PodHold, answers, now| match hold.state(&hooks, None, answers, at(now))
        {
            HookState::Next(hook) => hook.name.clone(),
            other => format!("{other:?}"),
        };
        let none = HookAnswers::default();
        let new = PodHold::new(HookPurpose::ScaleDown, at(0));
        assert_eq!(state(&new, none, 0), "drain");
        let first = new.begin(&hooks[0], at(1));
        assert_eq!(PodHold::parse(&first.text()), Some(first.clone()));
        assert_eq!(state(&first, none, 2), "Runs");
        let other = PodHold::new(HookPurpose::Update, at(0)).begin(&hooks[0], at(1));
        assert_eq!(state(&first, answered(&other), 2), "Runs");
        assert_eq!(state(&first, none, 61), "Late");
        assert_eq!(state(&first, answered(&first), 61), "leave");
        let second = first.begin(&hooks[1], at(62));
        assert_eq!(second.done, ["drain"]);
        assert_eq!(state(&second, answered(&first), 63), "Runs");
        let person = HookAnswers {
            node: None,
            annotation: Some(&second.id),
        };
        assert_eq!(state(&second, person, 63), "Done");
        // Its time is ten minutes, and then the pod goes.
        assert_eq!(state(&second, none, 661), "Runs");
        assert_eq!(state(&second, none, 662), "Done");
    }

    /// rollouts.md R25: hooks are taken back from the last one, if they can be.
    #[test]
    fn a_hold_is_cancelled_from_the_last_hook() {
        let hooks = hooks();
        let hold = PodHold::new(HookPurpose::ScaleDown, at(0));
        assert_eq!(hold.cancel(&hooks, at(1)), None);
        let hold = hold.begin(&hooks[0], at(1)).begin(&hooks[1], at(2));
        let cancel = hold.cancel(&hooks, at(3)).unwrap();
        assert_eq!(cancel.hook.as_deref(), Some("drain"));
        assert!(cancel.cancels && cancel.done.is_empty());
        assert!(cancel.id.starts_with("cancel/"));
        let command = cancel.check.exec.as_ref().unwrap().command.clone();
        assert_eq!(command.unwrap(), ["/undrain"]);
        assert_eq!(cancel.cancel(&hooks, at(4)), None);
    }

    /// rollouts.md R24
    #[test]
    fn a_pod_that_is_emptied_is_not_restarted() {
        use HookPurpose::{Evict, Rollback, ScaleDown, Update};
        assert!(ScaleDown.outranks(Evict) && Evict.outranks(Update));
        assert!(!Update.outranks(Rollback) && !Rollback.outranks(Update));
        for purpose in HookPurpose::ALL {
            let text = json!(purpose.as_str());
            assert_eq!(json_tree::from_value::<HookPurpose>(text).unwrap(), purpose);
        }
    }

    /// rollouts.md R26: an eviction is expected for five minutes.
    #[test]
    fn an_eviction_is_expected_again() {
        let hold = PodHold::new(HookPurpose::Evict, at(0));
        assert_eq!(hold.expected_until(), Some(at(300)));
        let update = PodHold::new(HookPurpose::Update, at(0));
        assert_eq!(update.expected_until(), None);
        for unreadable in ["", "{}", r#"{"purpose": "Other", "since": "x"}"#] {
            assert_eq!(PodHold::parse(unreadable), None, "{unreadable}");
        }
    }
}
