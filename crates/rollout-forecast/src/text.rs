//! The report as text.

use command_output::columns;
use json_tree::Value;

use crate::difference::Difference;
use crate::report::{
    ChangeGroup, ClaimAction, ClaimChange, EndState, PodAction, PodChange, Report,
};

/// Maximum number of characters of a value; the whole value is in the JSON output.
const VALUE_MAX: usize = 80;

impl Report {
    /// The report as text. `apply` is the command that stores the manifests, if there are any.
    pub fn text(&self, apply: Option<&str>) -> String {
        let mut text = String::new();
        line(&mut text, &self.summary());
        if let Some(policy) = &self.policy {
            line(
                &mut text,
                &format!("StatefulSetPolicy {policy} is in force"),
            );
        }
        for warning in &self.warnings {
            line(&mut text, &format!("Warning: {warning}"));
        }
        section(
            &mut text,
            "Changes of the set:",
            &self.differences,
            difference,
        );
        section(
            &mut text,
            "Waiting at present:",
            &self.waiting_now,
            String::clone,
        );
        self.add_rollout(&mut text);
        self.add_claims(&mut text);
        self.add_end(&mut text);
        if let Some(apply) = apply.filter(|_| self.has_changes()) {
            line(&mut text, "");
            let store = format!("Nothing is stored. To store exactly this: {apply}");
            line(&mut text, &store);
        }
        text
    }

    fn summary(&self) -> String {
        let groups = self.rollout.iter();
        let pods: Vec<&PodChange> = groups
            .filter_map(|group| match group {
                ChangeGroup::Pods(pods) => Some(pods),
                ChangeGroup::Wait(_) | ChangeGroup::Rejected(_) => None,
            })
            .flatten()
            .collect();
        let of_pods = |action: PodAction, verb: &str| {
            let count = pods.iter().filter(|pod| pod.action == action).count();
            (count > 0).then(|| format!("{} {verb}", counted(count, "pod")))
        };
        let of_claims = |action: ClaimAction, verb: &str| {
            let count = self
                .claims
                .iter()
                .filter(|one| one.action == action)
                .count();
            (count > 0).then(|| format!("{} {verb}", counted(count, "claim")))
        };
        let parts = [
            self.is_new.then(|| "new".to_owned()),
            of_pods(PodAction::Restart, "to restart"),
            of_pods(PodAction::Create, "to create"),
            of_pods(PodAction::Remove, "to remove"),
            of_pods(PodAction::Delete, "to delete"),
            of_pods(PodAction::Adopt, "to adopt"),
            of_pods(PodAction::Release, "to release"),
            of_claims(ClaimAction::Create, "to create"),
            of_claims(ClaimAction::Resize, "to resize"),
            of_claims(ClaimAction::Modify, "to modify"),
            of_claims(ClaimAction::Label, "to label"),
            of_claims(ClaimAction::Delete, "to DELETE with data"),
        ];
        let mut parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            parts.push(match self.differences.is_empty() {
                true => "nothing changes".to_owned(),
                false => "no pod and no claim changes".to_owned(),
            });
        }
        let (namespace, name) = (&self.namespace, &self.name);
        format!("StatefulSet {namespace}/{name}: {}", parts.join(", "))
    }

    fn add_rollout(&self, text: &mut String) {
        if self.rollout.is_empty() {
            return;
        }
        let mut rows = vec![
            ["STEP", "POD", "ACTION", "REVISION"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let mut is_guarded = false;
        for (index, group) in self.rollout.iter().enumerate() {
            let step = (index + 1).to_string();
            match group {
                ChangeGroup::Pods(pods) => {
                    for pod in pods {
                        is_guarded |= pod.guarded;
                        let cells = [step.clone(), pod.pod.clone(), action(pod.action).to_owned()];
                        let revision = match &pod.hook {
                            Some(hook) => hook.clone(),
                            None => arrow(pod.from.as_deref(), pod.to.as_deref()),
                        };
                        rows.push([cells.as_slice(), &[revision]].concat());
                    }
                }
                ChangeGroup::Wait(causes) => {
                    rows.push(vec![step, format!("wait: {}", causes.join("; "))]);
                }
                ChangeGroup::Rejected(reason) => rows.push(vec![step, reason.clone()]),
            }
        }
        line(text, "");
        text.push_str(&columns::table(&rows, 2));
        let order = "The pods of a step go together. The next step begins when they are available.";
        line(text, order);
        if is_guarded {
            line(
                text,
                "The guard of the policy decides again before each pod is deleted.",
            );
        }
    }

    fn add_claims(&self, text: &mut String) {
        if self.claims.is_empty() {
            return;
        }
        let mut rows = vec![["CLAIM", "ACTION", "VALUE"].map(str::to_owned).to_vec()];
        rows.extend(self.claims.iter().map(claim_row));
        line(text, "");
        text.push_str(&columns::table(&rows, 2));
    }

    fn add_end(&self, text: &mut String) {
        let mut lines = Vec::new();
        match &self.end {
            EndState::Complete => {}
            EndState::Held(causes) => {
                lines.extend(causes.iter().map(|cause| format!("Then it waits: {cause}")));
            }
            EndState::Unfinished => {
                lines.push("And so on: the rollout is longer than this plan".to_owned())
            }
        }
        let kept = self.kept.iter();
        let kept: Vec<String> = kept
            .map(|(pod, revision)| format!("{pod} ({revision})"))
            .collect();
        if !kept.is_empty() && self.has_changes() {
            lines.push(format!(
                "Pods of another revision at the end: {}",
                kept.join(", ")
            ));
        }
        if !lines.is_empty() {
            line(text, "");
        }
        for one in lines {
            line(text, &one);
        }
    }
}

fn line(text: &mut String, one: &str) {
    text.push_str(one);
    text.push('\n');
}

fn section<T>(text: &mut String, title: &str, items: &[T], format: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    line(text, "");
    line(text, title);
    for item in items {
        line(text, &format!("  {}", format(item)));
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn action(action: PodAction) -> &'static str {
    match action {
        PodAction::Create => "create",
        PodAction::Restart => "restart",
        PodAction::Remove => "remove",
        PodAction::Delete => "delete",
        PodAction::Adopt => "adopt",
        PodAction::Release => "release",
        PodAction::RunHook => "run hook",
        PodAction::CancelHook => "take back hook",
    }
}

fn arrow(from: Option<&str>, to: Option<&str>) -> String {
    match (from, to) {
        (Some(from), Some(to)) if from == to => from.to_owned(),
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => String::new(),
    }
}

fn claim_row(claim: &ClaimChange) -> Vec<String> {
    let action = match claim.action {
        ClaimAction::Create => "create",
        ClaimAction::Resize => "resize",
        ClaimAction::Modify => "modify",
        ClaimAction::Label => "label",
        ClaimAction::Delete => "DELETE with its data",
    };
    let value = arrow(claim.from.as_deref(), claim.to.as_deref());
    vec![claim.claim.clone(), action.to_owned(), value]
}

fn difference(one: &Difference) -> String {
    let value = |value: &Option<Value>| match value {
        Some(value) => {
            let text = value.to_string();
            match text.char_indices().nth(VALUE_MAX) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
        None => "(none)".to_owned(),
    };
    format!(
        "{}: {} -> {}",
        one.path,
        value(&one.before),
        value(&one.after)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pod(name: &str, action: PodAction, guarded: bool) -> PodChange {
        PodChange {
            pod: name.to_owned(),
            action,
            from: Some("db-a".to_owned()),
            to: (action == PodAction::Restart).then(|| "db-b".to_owned()),
            guarded,
            hook: None,
        }
    }

    fn report() -> Report {
        Report {
            namespace: "shop".to_owned(),
            name: "db".to_owned(),
            is_new: false,
            policy: Some("quorum".to_owned()),
            differences: vec![Difference {
                path: "spec.replicas".to_owned(),
                before: Some(5.into()),
                after: None,
            }],
            update_revision: "db-b".to_owned(),
            waiting_now: vec!["pod db-1 is not ready".to_owned()],
            rollout: vec![
                ChangeGroup::Pods(vec![PodChange {
                    hook: Some("drain".to_owned()),
                    ..pod("db-2", PodAction::RunHook, false)
                }]),
                ChangeGroup::Pods(vec![
                    pod("db-10", PodAction::Remove, true),
                    pod("db-2", PodAction::Restart, false),
                ]),
                ChangeGroup::Wait(vec!["pod db-1 is not ready".to_owned()]),
            ],
            claims: vec![ClaimChange {
                claim: "data-db-10".to_owned(),
                action: ClaimAction::Delete,
                from: None,
                to: None,
            }],
            kept: BTreeMap::from([("db-0".to_owned(), "db-a".to_owned())]),
            end: EndState::Held(vec!["the guard holds".to_owned()]),
            versions: "7".to_owned(),
            warnings: vec!["careful".to_owned()],
        }
    }

    /// rollouts.md R18: all parts of a report.
    #[test]
    fn a_report_has_all_parts() {
        let expected = "\
StatefulSet shop/db: 1 pod to restart, 1 pod to remove, 1 claim to DELETE with data
StatefulSetPolicy quorum is in force
Warning: careful

Changes of the set:
  spec.replicas: 5 -> (none)

Waiting at present:
  pod db-1 is not ready

STEP  POD    ACTION    REVISION
1     db-2   run hook  drain
2     db-10  remove    db-a
2     db-2   restart   db-a -> db-b
3     wait: pod db-1 is not ready
The pods of a step go together. The next step begins when they are available.
The guard of the policy decides again before each pod is deleted.

CLAIM       ACTION                VALUE
data-db-10  DELETE with its data

Then it waits: the guard holds
Pods of another revision at the end: db-0 (db-a)

Nothing is stored. To store exactly this: mainstay plan sts/db --apply 7
";
        assert_eq!(
            report().text(Some("mainstay plan sts/db --apply 7")),
            expected
        );
    }

    /// rollouts.md R19: without changes there is nothing to store.
    #[test]
    fn a_report_without_changes_is_one_line() {
        let report = Report {
            policy: None,
            differences: Vec::new(),
            waiting_now: Vec::new(),
            rollout: Vec::new(),
            claims: Vec::new(),
            kept: BTreeMap::new(),
            end: EndState::Complete,
            warnings: Vec::new(),
            ..report()
        };
        assert!(!report.has_changes());
        let expected = "StatefulSet shop/db: nothing changes\n";
        assert_eq!(report.text(Some("mainstay plan")), expected);
    }
}
