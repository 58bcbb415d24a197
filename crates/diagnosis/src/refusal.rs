//! Refusals of a pod's creation by the API server, and their remedies.

use k8s_openapi::api::core::v1::Event;
use object_model::Quantity;
use pod_lifecycle::diagnosis::{Remedy, text};

use super::chain_builder::ChainBuilder;
use super::explanation::Object;
use super::observed::{self, ObservedNamespace};

/// The time for which a reported failure of a write counts as the reason for a missing pod. Controllers retry after
/// 1000 seconds at the latest (`statefulset.md` 3.1).
const FAILURE_COUNTS_FOR: jiff::SignedDuration = jiff::SignedDuration::from_mins(20);
/// Maximum number of missing pods in the computation of a sufficient quota.
const MISSING_MAX: i32 = 1000;

impl ChainBuilder<'_> {
    /// The refusal of an owner's pods, from the owner's events, and the remedy. `about` selects the events.
    pub fn refusal(
        &mut self,
        owner: &Object,
        uid: Option<&str>,
        about: &str,
        template: &str,
        missing: i32,
    ) -> bool {
        let now = self.observed.now;
        let recent = |event: &Event| {
            let last = observed::last_seen(event);
            last.is_some_and(|last| now.duration_since(last) <= FAILURE_COUNTS_FOR)
        };
        let newest = |reason: &str| {
            let is_refusal = |event: &Event| {
                let message = event.message.as_deref().unwrap_or_default();
                event.reason.as_deref() == Some(reason) && message.contains(about) && recent(event)
            };
            self.observed
                .newest_event(&owner.kind, &owner.name, uid, is_refusal)
        };
        let Some(event) = newest("FailedCreate") else {
            return false;
        };
        let created = newest("SuccessfulCreate").and_then(observed::last_seen);
        if created > observed::last_seen(event) {
            return false;
        }
        let message = event.message.clone().unwrap_or_default();
        self.event(event, owner.clone());
        let remedy = remedy(self.observed, &message, template, missing);
        self.remedy(remedy);
        true
    }
}

/// The remedy for a refused pod; `template` names the object with the pod template (`deploy/web`).
pub(super) fn remedy(
    observed: &ObservedNamespace,
    message: &str,
    template: &str,
    missing: i32,
) -> Remedy {
    let refused = Refused {
        observed,
        message,
        template,
    };
    refused
        .by_quota(missing)
        .or_else(|| refused.for_account())
        .or_else(|| refused.for_priority())
        .or_else(|| refused.by_pod_security())
        .or_else(|| refused.by_limits())
        .or_else(|| refused.by_policy())
        .or_else(|| refused.by_webhook())
        .unwrap_or_else(|| {
            Remedy::new("correct the API server's error, in the template if it is invalid")
                .with(refused.edit())
        })
}

/// A refusal and the object that it concerns.
struct Refused<'a> {
    observed: &'a ObservedNamespace,
    message: &'a str,
    template: &'a str,
}

impl Refused<'_> {
    fn kubectl(&self, rest: &str) -> String {
        text::kubectl(&self.observed.namespace, rest)
    }

    fn edit(&self) -> String {
        self.kubectl(&format!("edit {}", self.template))
    }

    /// A quota that allows all missing pods, for the message `exceeded quota: q, requested: pods=1, used: pods=2,
    /// limited: pods=2`.
    fn by_quota(&self, missing: i32) -> Option<Remedy> {
        let name = text::between(self.message, "exceeded quota: ", ", requested: ")?;
        let requested = text::between(self.message, ", requested: ", ", used: ")?;
        let used = text::between(self.message, ", used: ", ", limited: ")?;
        let used = |resource: &str| -> Option<Quantity> {
            let mut all = used.split(',').filter_map(|one| one.split_once('='));
            let (_, amount) = all.find(|(name, _)| *name == resource)?;
            amount.parse().ok()
        };
        let requests: Option<Vec<String>> = requested
            .split(',')
            .map(|one| {
                let (resource, amount) = one.split_once('=')?;
                let amount: Quantity = amount.parse().ok()?;
                let missing = missing.clamp(1, MISSING_MAX);
                let sum = (0..missing).fold(used(resource)?, |sum, _| sum.plus(&amount));
                Some(format!("\"{resource}\":\"{sum}\""))
            })
            .collect();
        let hard = requests?.join(",");
        let patch =
            format!("patch quota {name} --type merge -p '{{\"spec\":{{\"hard\":{{{hard}}}}}}}'");
        Some(
            Remedy::new("raise the quota, or reduce the usage that it counts")
                .with(self.kubectl(&patch)),
        )
    }

    fn for_account(&self) -> Option<Remedy> {
        let name = text::between(self.message, "serviceaccount \"", "\" not found")?;
        let create = self.kubectl(&format!("create serviceaccount {name}"));
        Some(Remedy::new("the ServiceAccount must exist").with(create))
    }

    fn for_priority(&self) -> Option<Remedy> {
        let name = text::between(self.message, "no PriorityClass with name ", " was found")?;
        let create = format!("kubectl create priorityclass {name} --value=0");
        Some(Remedy::new("the class must exist").with(create))
    }

    fn by_pod_security(&self) -> Option<Remedy> {
        let level = text::between(self.message, "violates PodSecurity \"", "\"")?;
        let edit = self.edit();
        let text = format!(
            "correct the template as the standard {level} says ({edit}), or allow such pods in \
             the namespace"
        );
        Some(Remedy::new(text).with(format!(
            "kubectl label --overwrite namespace {} \
             pod-security.kubernetes.io/enforce=privileged",
            self.observed.namespace
        )))
    }

    /// The remedy for the message `maximum memory usage per Container is 32Mi, but limit is 64Mi`.
    fn by_limits(&self) -> Option<Remedy> {
        let of = |bound: &str| {
            let (_, rest) = self.message.split_once(bound)?;
            let (resource, rest) = rest.split_once(" usage per Container is ")?;
            let end = [", but ", ".  No "]
                .iter()
                .filter_map(|end| rest.find(end))
                .min()?;
            let amount = rest.get(..end)?;
            (!resource.contains(' ')).then(|| format!("{resource}={amount}"))
        };
        let amount = of("maximum ").or_else(|| of("minimum "))?;
        let set = format!(
            "set resources {} --limits={amount} --requests={amount}",
            self.template
        );
        Some(
            Remedy::new("request only amounts that the LimitRange allows").with(self.kubectl(&set)),
        )
    }

    fn by_policy(&self) -> Option<Remedy> {
        let binding = text::between(self.message, "with binding '", "' denied request")?;
        let edit = self.edit();
        let text = format!(
            "correct the template as the policy says ({edit}), or remove the binding of the policy"
        );
        Some(Remedy::new(text).with(format!(
            "kubectl delete validatingadmissionpolicybinding {binding}"
        )))
    }

    /// The remedy for a webhook that refuses the pod, or that does not respond.
    fn by_webhook(&self) -> Option<Remedy> {
        if let Some(name) = text::between(
            self.message,
            "admission webhook \"",
            "\" denied the request",
        ) {
            let text = format!("correct the template as the webhook {name} says");
            return Some(Remedy::new(text).with(self.edit()));
        }
        let name = text::between(self.message, "failed calling webhook \"", "\"")?;
        let mut webhooks = self.observed.cluster.webhooks.iter();
        let command = match webhooks.find(|webhook| webhook.name == name) {
            Some(webhook) => format!("kubectl delete {}", webhook.configuration),
            None => "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"
                .to_owned(),
        };
        Some(
            Remedy::new(format!(
                "the program behind the webhook {name} must respond; if it was removed permanently, delete its configuration"
            ))
            .with(command),
        )
    }
}
