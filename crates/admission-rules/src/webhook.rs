//! Webhooks from their configurations.

use custom_resources::ExpressionError;
use custom_resources::conversion::WebhookClient;
use json_tree::Value;

use crate::error::RuleError;
use crate::expressions::{Condition, MatchResult, conditions, met};
use crate::matching::{rule_matches, selected};
use crate::request::{Request, ResourceAndKind};

/// One webhook of a ValidatingWebhookConfiguration or MutatingWebhookConfiguration.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// The name in the configuration, for instance `policy.example.com`.
    pub name: String,
    /// The name of the configuration that contains the webhook.
    pub configuration: String,
    /// The URL or the Service (`clientConfig`).
    pub client: WebhookClient,
    /// The CA certificates that sign the webhook's server certificate, in PEM and base64; if empty, the certificates
    /// that the machine trusts.
    pub ca_bundle: String,
    /// `timeoutSeconds`: 1 to 30, 10 by default.
    pub timeout_seconds: u64,
    /// Whether a failed call refuses the request (`failurePolicy: Fail`).
    pub must_succeed: bool,
    /// Whether the webhook is called again after later webhooks have changed the object (`reinvocationPolicy`).
    pub is_reinvoked: bool,
    /// Whether the webhook may be called for a dry run: its `sideEffects` are `None` or `NoneOnDryRun`.
    pub supports_dry_run: bool,
    /// The version of the AdmissionReview: `v1` or `v1beta1`.
    pub version: &'static str,
    exact: bool,
    source: Value,
    conditions: Result<Vec<Condition>, ExpressionError>,
}

/// The webhooks of the configurations in the order of calls: by the name of the configuration, then in the order of
/// the list.
pub fn webhooks(configurations: &[Value]) -> Vec<Webhook> {
    let name = |configuration: &Value| {
        let name = configuration["metadata"]["name"].as_str();
        name.unwrap_or_default().to_owned()
    };
    let mut sorted: Vec<(String, &Value)> = configurations
        .iter()
        .map(|configuration| (name(configuration), configuration))
        .collect();
    sorted.sort_by(|one, other| one.0.cmp(&other.0));
    let mut all = Vec::new();
    for (configuration, object) in sorted {
        let hooks = object["webhooks"].as_array().into_iter().flatten();
        all.extend(hooks.map(|hook| Webhook::from_json(&configuration, hook)));
    }
    all
}

impl Webhook {
    fn from_json(configuration: &str, hook: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let client = &hook["clientConfig"];
        let service = &client["service"];
        let versions = hook["admissionReviewVersions"].as_array();
        let mut versions = versions.into_iter().flatten().filter_map(Value::as_str);
        let first = versions.find(|version| matches!(*version, "v1" | "v1beta1"));
        Self {
            name: text(&hook["name"]),
            configuration: configuration.to_owned(),
            client: if service.is_object() {
                WebhookClient::Service {
                    namespace: text(&service["namespace"]),
                    name: text(&service["name"]),
                    port: service["port"]
                        .as_u64()
                        .and_then(|port| u16::try_from(port).ok())
                        .unwrap_or(443),
                    path: match service["path"].as_str() {
                        Some(path) if path.starts_with('/') => path.to_owned(),
                        _ => "/".to_owned(),
                    },
                }
            } else {
                WebhookClient::Url(text(&client["url"]))
            },
            ca_bundle: text(&client["caBundle"]),
            timeout_seconds: hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30),
            must_succeed: hook["failurePolicy"] != "Ignore",
            is_reinvoked: hook["reinvocationPolicy"] == "IfNeeded",
            supports_dry_run: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            version: if first == Some("v1beta1") {
                "v1beta1"
            } else {
                "v1"
            },
            exact: hook["matchPolicy"] == "Exact",
            conditions: conditions(&hook["matchConditions"], false),
            source: hook.clone(),
        }
    }

    /// The index of the subject to send to the webhook. Index 0 is the resource of the request; the other subjects
    /// are its other versions. `None` if the webhook does not match.
    ///
    /// # Errors
    /// The evaluation error of a match condition, with `failurePolicy: Fail`.
    pub fn match_request(
        &self,
        request: &Request<'_>,
        subjects: &[ResourceAndKind<'_>],
    ) -> Result<Option<usize>, RuleError> {
        let subjects = if self.exact {
            subjects.get(..1).unwrap_or_default()
        } else {
            subjects
        };
        let rules = self.source["rules"].as_array();
        let matches = |subject: &ResourceAndKind<'_>| {
            let mut rules = rules.into_iter().flatten();
            rules.any(|rule| rule_matches(rule, &subject.target, request))
        };
        let Some(index) = subjects.iter().position(matches) else {
            return Ok(None);
        };
        let failed = |error: RuleError| {
            if self.must_succeed {
                Err(error)
            } else {
                Ok(None)
            }
        };
        match selected(&self.source, request) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return failed(error.into()),
        }
        let conditions = match &self.conditions {
            Ok(conditions) => conditions,
            Err(error) => return failed(error.clone().into()),
        };
        if conditions.is_empty() {
            return Ok(Some(index));
        }
        match met(conditions, &request.values()) {
            MatchResult::Yes => Ok(Some(index)),
            MatchResult::No => Ok(None),
            MatchResult::Unknown(error) => failed(error),
        }
    }
}
