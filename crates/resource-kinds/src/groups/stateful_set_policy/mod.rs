//! apps.mainstay.dev/v1alpha1 StatefulSetPolicy: rules for the rollouts of StatefulSets, in an object beside the sets
//! (`docs/contract/rollouts.md`). The kind is a custom resource: a new cluster contains its CustomResourceDefinition,
//! and other clusters accept the same definition.

mod autogrow;
mod check;
mod claims;
mod group;
mod guard;
mod hooks;
mod rollout;
mod steps;

use std::collections::BTreeMap;

use json_tree::Value;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::LabelSelector;
use serde::{Deserialize, Serialize};

pub use autogrow::{Autogrow, GrowthStep};
pub use check::{CheckKind, GuardCheck};
pub use claims::{ClaimRules, ClaimUpdates, removed_claim_templates};
pub use group::{GuardCount, SetHealth, sets_of_group};
pub use guard::{EVICTION_WITHIN, Guard, HealthCount, HealthFacts, MinHealthy, PodHealth};
pub use hooks::{
    HookAnswers, HookPurpose, HookState, PodHold, PolicyHook, REQUEST_RENEWED, TimeoutAnswer,
    hooks_before,
};
pub use rollout::{Evidence, OnFailure, OrderKey, RoleSource, RolloutRules, RolloutStrategy};
pub use steps::{StepPause, StepRecord, UpdateStep};

pub const GROUP: &str = "apps.mainstay.dev";
const API_VERSION: &str = "apps.mainstay.dev/v1alpha1";
pub const PLURAL: &str = "statefulsetpolicies";
/// The name of the CustomResourceDefinition.
pub const DEFINITION: &str = "statefulsetpolicies.apps.mainstay.dev";

/// The CustomResourceDefinition, for a new cluster.
const DEFINITIONS: &str = include_str!("../../../data/stateful-set-policy-definition.json");

/// The condition of a policy that is in force for all sets that it selects.
pub const ACCEPTED: &str = "Accepted";

/// The reason why the controller of a set evicts a pod (rollouts.md R22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Update,
    ScaleDown,
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Update => "Update",
            Self::ScaleDown => "ScaleDown",
        }
    }

    /// The purpose with this name.
    pub fn of(text: &str) -> Option<Self> {
        let all = [Self::Update, Self::ScaleDown];
        all.into_iter().find(|purpose| purpose.as_str() == text)
    }
}

/// The CustomResourceDefinition of the kind, for a new cluster.
pub fn definitions() -> Vec<Value> {
    serde_json::from_str(DEFINITIONS).unwrap_or_default()
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSetPolicy {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: PolicySpec,
    #[serde(default)]
    pub status: Option<PolicyStatus>,
}

/// `spec` of a StatefulSetPolicy. Exactly one of `set_ref` and `selector` is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySpec {
    #[serde(default)]
    pub set_ref: Option<SetReference>,
    #[serde(default)]
    pub selector: Option<meta::LabelSelector>,
    #[serde(default)]
    pub guard: Option<Guard>,
    #[serde(default)]
    pub claims: Option<ClaimRules>,
    #[serde(default)]
    pub rollout: Option<RolloutRules>,
    #[serde(default)]
    pub roles: Option<RoleSource>,
    #[serde(default)]
    pub hooks: Vec<PolicyHook>,
}

impl PolicySpec {
    /// The role of a pod with these labels; `None` if it is unknown.
    pub fn role<'r>(&'r self, label: impl FnOnce(&str) -> Option<&'r str>) -> Option<&'r str> {
        let source = self.roles.as_ref()?;
        source.role(label(&source.from_label))
    }
}

/// A StatefulSet of the namespace of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SetReference {
    pub name: String,
}

/// `status` of a StatefulSetPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The number of sets for which the policy is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sets: Option<i32>,
    #[serde(default)]
    pub conditions: Vec<meta::Condition>,
}

impl k8s_openapi::Resource for StatefulSetPolicy {
    const API_VERSION: &'static str = API_VERSION;
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "StatefulSetPolicy";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = PLURAL;
    type Scope = NamespaceResourceScope;
}

impl k8s_openapi::Metadata for StatefulSetPolicy {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl StatefulSetPolicy {
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The group of sets that share the guard of the policy.
    pub fn group(&self) -> Option<&str> {
        self.spec.guard.as_ref()?.group.as_deref()
    }

    /// Whether the policy names or selects a set of its namespace.
    pub fn concerns(&self, set: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        if let Some(reference) = &self.spec.set_ref {
            return reference.name == set;
        }
        let selector = self.spec.selector.as_ref().and_then(LabelSelector::of);
        selector.is_some_and(|selector| {
            selector.matches_by(|key| labels.and_then(|all| all.get(key)).map(String::as_str))
        })
    }

    /// Whether the policy names its set.
    pub fn names_a_set(&self) -> bool {
        self.spec.set_ref.is_some()
    }

    /// The rank of a policy, lowest first: one that names a set comes before one that selects it, the older before the
    /// younger, then by name (rollouts.md S1).
    fn rank(&self) -> impl Ord + '_ {
        let created = self.metadata.creation_timestamp.as_ref();
        let created = created.map(|time| time.0);
        (!self.names_a_set(), created, self.name())
    }
}

/// The policy that is in force for a set, among the policies of the set's namespace (rollouts.md S1).
pub fn in_force<P: AsRef<StatefulSetPolicy>>(
    set: &str,
    labels: Option<&BTreeMap<String, String>>,
    policies: impl IntoIterator<Item = P>,
) -> Option<P> {
    let concerning = policies
        .into_iter()
        .filter(|policy| policy.as_ref().concerns(set, labels));
    concerning.min_by(|a, b| a.as_ref().rank().cmp(&b.as_ref().rank()))
}

impl AsRef<StatefulSetPolicy> for StatefulSetPolicy {
    fn as_ref(&self) -> &StatefulSetPolicy {
        self
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;
    use crate::well_known::annotations::SCHEMA_NUMBER;

    fn policy(name: &str, created: &str, spec: Value) -> StatefulSetPolicy {
        let object = json!({
            "apiVersion": API_VERSION, "kind": "StatefulSetPolicy",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": spec,
        });
        json_tree::from_value(object).unwrap()
    }

    #[test]
    fn the_definition_is_of_the_kind() {
        let definitions = definitions();
        assert_eq!(definitions.len(), 1);
        let definition = &definitions[0];
        assert_eq!(definition["metadata"]["name"], DEFINITION);
        assert_eq!(definition["spec"]["group"], GROUP);
        assert_eq!(definition["spec"]["names"]["plural"], PLURAL);
    }

    /// A server renews the schema in clusters of earlier versions only if its number is higher: raise the number in the
    /// data and here, with each change of the schema.
    #[test]
    fn the_schema_number_belongs_to_the_schema() {
        let fnv1a = |text: &str| {
            text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
        };
        let definition = &definitions()[0];
        let number = &definition["metadata"]["annotations"][SCHEMA_NUMBER];
        let digest = fnv1a(&definition["spec"]["versions"].to_string());
        assert_eq!(
            (number.as_str(), digest),
            (Some("6"), 15_065_933_703_936_141_893)
        );
    }

    /// rollouts.md S1
    #[test]
    fn one_policy_is_in_force_for_a_set() {
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        let all = |name, created| policy(name, created, json!({"selector": {}}));
        let named = |name, created| policy(name, created, json!({"setRef": {"name": "db"}}));
        let labelled = policy(
            "e",
            old,
            json!({"selector": {"matchLabels": {"tier": "data"}}}),
        );
        let labels = BTreeMap::from([("tier".to_owned(), "data".to_owned())]);
        let chosen = |set: &str, labels, policies: &[StatefulSetPolicy]| {
            in_force(set, labels, policies).map(|policy| policy.name().to_owned())
        };
        let policies = [
            all("a", old),
            named("b", new),
            named("c", new),
            all("d", old),
        ];
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(chosen("db", None, &policies), name("b"));
        assert_eq!(chosen("web", None, &policies), name("a"));
        assert_eq!(
            chosen("web", None, &[all("z", old), all("a", new)]),
            name("z")
        );
        assert_eq!(
            chosen("web", None, &[named("b", old), labelled.clone()]),
            None
        );
        assert_eq!(chosen("web", Some(&labels), &[labelled]), name("e"));
    }

    #[test]
    fn a_purpose_has_one_name() {
        for purpose in [Purpose::Update, Purpose::ScaleDown] {
            assert_eq!(Purpose::of(purpose.as_str()), Some(purpose));
        }
        assert_eq!(Purpose::of("update"), None);
    }
}
