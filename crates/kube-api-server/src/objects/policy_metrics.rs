//! Metrics of admission policies, with the names and labels of Kubernetes
//! (`apiserver/pkg/admission/plugin/policy/validating/metrics`, and `mutating/metrics`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use admission_rules::{EnforcementAction, EvaluationFailure, EvaluationObserver, PolicyEvaluation};
use process_telemetry::prometheus::{Histogram, Metric, Page};

/// Upper bounds of the durations of evaluations, in seconds (upstream's values).
const BUCKETS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];

/// Maximum number of distinct label sets of each kind of policy, because users choose the names.
const SERIES_MAX: usize = 1000;

const VALIDATIONS: Metric = Metric::counter(
    "apiserver_validating_admission_policy_check_total",
    "Evaluations of ValidatingAdmissionPolicies that failed or were false, by their effect.",
);
const VALIDATION_DURATION: Metric = Metric::histogram(
    "apiserver_validating_admission_policy_check_duration_seconds",
    "Duration of these evaluations of ValidatingAdmissionPolicies.",
);
const MUTATIONS: Metric = Metric::counter(
    "apiserver_mutating_admission_policy_check_total",
    "Evaluations of mutations of MutatingAdmissionPolicies.",
);
const MUTATION_DURATION: Metric = Metric::histogram(
    "apiserver_mutating_admission_policy_check_duration_seconds",
    "Duration of the evaluations of mutations of MutatingAdmissionPolicies.",
);

/// The labels of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Evaluation {
    policy: String,
    binding: String,
    failure: Option<EvaluationFailure>,
    /// `None` for a mutation.
    action: Option<EnforcementAction>,
}

impl Evaluation {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        let error = match self.failure {
            None => "no_error",
            Some(EvaluationFailure::OutOfBudget) => "out_of_budget",
            Some(EvaluationFailure::Invalid) => "invalid_error",
        };
        let action = self.action.map(|action| match action {
            EnforcementAction::Allow => "allow",
            EnforcementAction::Deny => "deny",
            EnforcementAction::Audit => "audit",
            EnforcementAction::Warn => "warn",
        });
        let mut labels = vec![
            ("policy", &*self.policy),
            ("policy_binding", &*self.binding),
            ("error_type", error),
        ];
        labels.extend(action.map(|action| ("enforcement_action", action)));
        labels
    }
}

/// The durations of evaluations by their labels.
#[derive(Default)]
struct Durations(Mutex<BTreeMap<Evaluation, Histogram>>);

impl Durations {
    /// New label sets beyond the maximum are not counted.
    fn add(&self, evaluation: Evaluation, took: Duration) {
        let mut durations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if durations.len() >= SERIES_MAX && !durations.contains_key(&evaluation) {
            return;
        }
        let durations = durations.entry(evaluation);
        let durations = durations.or_insert_with(|| Histogram::new(&BUCKETS));
        durations.observe(took.as_secs_f64());
    }

    fn write(&self, page: &mut Page, [count, duration]: [Metric; 2]) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        page.describe(count);
        page.describe(duration);
        for (evaluation, durations) in &*all {
            let labels = evaluation.labels();
            page.add(count, &labels, durations.count());
            page.add_histogram(duration, &labels, durations);
        }
    }
}

/// The counters and histograms of the evaluations of policies.
pub(crate) struct PolicyMetrics {
    started: Instant,
    validations: Durations,
    mutations: Durations,
}

impl Default for PolicyMetrics {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            validations: Durations::default(),
            mutations: Durations::default(),
        }
    }
}

impl PolicyMetrics {
    /// Counts the evaluation of one mutation of the policy with this binding.
    pub(crate) fn mutated(
        &self,
        (policy, binding): (&str, &str),
        failure: Option<EvaluationFailure>,
        took: Duration,
    ) {
        let evaluation = Evaluation {
            policy: policy.to_owned(),
            binding: binding.to_owned(),
            failure,
            action: None,
        };
        self.mutations.add(evaluation, took);
    }

    /// Writes the metrics to a page.
    pub(crate) fn write(&self, page: &mut Page) {
        let validations = [VALIDATIONS, VALIDATION_DURATION];
        self.validations.write(page, validations);
        self.mutations.write(page, [MUTATIONS, MUTATION_DURATION]);
    }
}

impl EvaluationObserver for PolicyMetrics {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn validated(&self, evaluation: &PolicyEvaluation<'_>) {
        let labels = Evaluation {
            policy: evaluation.policy.to_owned(),
            binding: evaluation.binding.to_owned(),
            failure: evaluation.failure,
            action: Some(evaluation.action),
        };
        self.validations.add(labels, evaluation.took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(metrics: &PolicyMetrics) -> String {
        let mut page = Page::default();
        metrics.write(&mut page);
        page.text()
    }

    #[test]
    fn evaluations_are_counted_by_their_effect() {
        let metrics = PolicyMetrics::default();
        let evaluation = |failure, action| PolicyEvaluation {
            policy: "p",
            binding: "b",
            failure,
            action,
            took: Duration::from_millis(2),
        };
        let out_of_budget = Some(EvaluationFailure::OutOfBudget);
        metrics.validated(&evaluation(None, EnforcementAction::Deny));
        metrics.validated(&evaluation(None, EnforcementAction::Deny));
        metrics.validated(&evaluation(out_of_budget, EnforcementAction::Allow));
        let invalid = Some(EvaluationFailure::Invalid);
        metrics.mutated(("m", "b"), invalid, Duration::ZERO);
        let page = page(&metrics);
        let of = "policy=\"p\",policy_binding=\"b\"";
        for line in [
            format!(
                "validating_admission_policy_check_total{{{of},error_type=\"no_error\",enforcement_action=\"deny\"}} 2"
            ),
            format!(
                "validating_admission_policy_check_total{{{of},error_type=\"out_of_budget\",enforcement_action=\"allow\"}} 1"
            ),
            format!(
                "validating_admission_policy_check_duration_seconds_bucket{{{of},error_type=\"no_error\",enforcement_action=\"deny\",le=\"0.001\"}} 0"
            ),
            "mutating_admission_policy_check_total{policy=\"m\",policy_binding=\"b\",error_type=\"invalid_error\"} 1".to_owned(),
        ] {
            let line = format!("apiserver_{line}\n");
            assert!(page.contains(&line), "{line} {page}");
        }
    }

    #[test]
    fn the_number_of_label_sets_has_a_maximum() {
        let metrics = PolicyMetrics::default();
        for number in 0..SERIES_MAX + 10 {
            let name = format!("p{number}");
            metrics.mutated((&name, "b"), None, Duration::ZERO);
        }
        metrics.mutated(("p0", "b"), None, Duration::ZERO);
        let lines = page(&metrics);
        let counted = lines.matches("check_total{").count();
        assert_eq!(counted, SERIES_MAX);
        let first = "check_total{policy=\"p0\",policy_binding=\"b\",error_type=\"no_error\"} 2\n";
        assert!(lines.contains(first));
    }
}
