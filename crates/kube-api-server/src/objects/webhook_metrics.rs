//! Metrics of the calls of webhooks, with the names and labels of Kubernetes (`apiserver/pkg/admission/metrics`,
//! `apiextensions-apiserver/pkg/apiserver/conversion/metrics.go`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use process_telemetry::prometheus::{Histogram, Metric, Page};

/// Upper bounds of the durations of admission, in seconds (upstream's values).
const ADMISSION_BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

/// Upper bounds of the durations of conversion, in seconds (upstream's values).
const CONVERSION_BUCKETS: [f64; 15] = [
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0,
];

/// Codes above this one are counted as this one (upstream's value).
const CODE_MAX: u16 = 600;

/// Maximum number of distinct label sets, because users choose the names and webhooks the codes.
const SERIES_MAX: usize = 2000;

const DURATION: Metric = Metric::histogram(
    "apiserver_admission_webhook_admission_duration_seconds",
    "Duration of admission by webhook.",
);
const REQUESTS: Metric = Metric::counter(
    "apiserver_admission_webhook_request_total",
    "Requests to webhooks by result.",
);
const REJECTIONS: Metric = Metric::counter(
    "apiserver_admission_webhook_rejection_count",
    "Writes that webhooks rejected, or whose webhook failed.",
);
const FAIL_OPEN: Metric = Metric::counter(
    "apiserver_admission_webhook_fail_open_count",
    "Failures of webhooks that did not reject the write.",
);
const CONVERSION_REQUESTS: Metric = Metric::counter(
    "apiserver_conversion_webhook_request_total",
    "Calls of conversion webhooks by result.",
);
const CONVERSION_DURATION: Metric = Metric::histogram(
    "apiserver_conversion_webhook_duration_seconds",
    "Duration of the calls of conversion webhooks.",
);

/// The webhook and the write of an admission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AdmissionCall {
    pub(crate) webhook: String,
    pub(crate) is_mutating: bool,
    pub(crate) operation: &'static str,
}

impl AdmissionCall {
    fn step(&self) -> &'static str {
        match self.is_mutating {
            true => "admit",
            false => "validating",
        }
    }

    /// The metric labels.
    fn labels(&self) -> [(&'static str, &str); 3] {
        [
            ("name", &self.webhook),
            ("type", self.step()),
            ("operation", self.operation),
        ]
    }
}

/// The result of an admission by a webhook; codes are HTTP status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AdmissionResult {
    Allowed,
    Denied {
        code: u16,
    },
    /// The webhook gave no valid response, and its `failurePolicy` is `Fail`.
    FailedClosed {
        code: u16,
    },
    /// The webhook gave no valid response, and its `failurePolicy` is `Ignore`.
    FailedOpen {
        code: u16,
    },
    /// This server could not make the request or use the response.
    ServerError,
}

impl AdmissionResult {
    /// The result with a code of at most [`CODE_MAX`].
    fn bounded(self) -> Self {
        let bound = |code: u16| code.min(CODE_MAX);
        match self {
            Self::Denied { code } => Self::Denied { code: bound(code) },
            Self::FailedClosed { code } => Self::FailedClosed { code: bound(code) },
            Self::FailedOpen { code } => Self::FailedOpen { code: bound(code) },
            Self::Allowed | Self::ServerError => self,
        }
    }

    fn code(self) -> u16 {
        match self {
            Self::Allowed => 200,
            Self::Denied { code } | Self::FailedClosed { code } | Self::FailedOpen { code } => code,
            Self::ServerError => 0,
        }
    }

    /// The label `error_type` of a rejection.
    fn rejection(self) -> Option<&'static str> {
        match self {
            Self::Allowed | Self::FailedOpen { .. } => None,
            Self::Denied { .. } => Some("no_error"),
            Self::FailedClosed { .. } => Some("calling_webhook_error"),
            Self::ServerError => Some("apiserver_internal_error"),
        }
    }
}

/// The label `failure_type` of a call of a conversion webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConversionFailure {
    Call,
    MalformedResponse,
    PartialResponse,
    NoObjects,
    InvalidObject,
}

impl ConversionFailure {
    fn name(self) -> &'static str {
        match self {
            Self::Call => "conversion_webhook_call_failure",
            Self::MalformedResponse => "conversion_webhook_malformed_response_failure",
            Self::PartialResponse => "conversion_webhook_partial_response_failure",
            Self::NoObjects => "conversion_webhook_no_objects_returned_failure",
            Self::InvalidObject => "conversion_webhook_invalid_converted_object_failure",
        }
    }
}

#[derive(Default)]
struct Admissions {
    results: BTreeMap<(AdmissionCall, AdmissionResult), u64>,
    /// By call and whether the write was rejected.
    durations: BTreeMap<(AdmissionCall, bool), Histogram>,
}

impl Admissions {
    /// The number of failures that did not reject the write, by webhook and type.
    fn failures_open(&self) -> BTreeMap<(&str, &'static str), u64> {
        let mut failures = BTreeMap::new();
        for ((call, result), count) in &self.results {
            if matches!(result, AdmissionResult::FailedOpen { .. }) {
                *failures
                    .entry((call.webhook.as_str(), call.step()))
                    .or_default() += count;
            }
        }
        failures
    }
}

/// The counters and histograms of the calls of webhooks.
#[derive(Default)]
pub(crate) struct WebhookMetrics {
    admissions: Mutex<Admissions>,
    conversions: Mutex<BTreeMap<Option<ConversionFailure>, Histogram>>,
}

impl WebhookMetrics {
    /// Counts an admission by a webhook. New label sets beyond the maximum are not counted.
    pub(crate) fn admitted(&self, call: AdmissionCall, result: AdmissionResult, took: Duration) {
        let mut admissions = lock(&self.admissions);
        let key = (call, result.bounded());
        if admissions.results.len() >= SERIES_MAX && !admissions.results.contains_key(&key) {
            return;
        }
        let timed = (key.0.clone(), result.rejection().is_some());
        *admissions.results.entry(key).or_default() += 1;
        let durations = admissions.durations.entry(timed);
        let durations = durations.or_insert_with(|| Histogram::new(&ADMISSION_BUCKETS));
        durations.observe(took.as_secs_f64());
    }

    /// Counts a call of a conversion webhook.
    pub(crate) fn converted(&self, failure: Option<ConversionFailure>, took: Duration) {
        let mut conversions = lock(&self.conversions);
        let durations = conversions.entry(failure);
        let durations = durations.or_insert_with(|| Histogram::new(&CONVERSION_BUCKETS));
        durations.observe(took.as_secs_f64());
    }

    /// Writes the metrics to a page.
    pub(crate) fn write(&self, page: &mut Page) {
        let admissions = lock(&self.admissions);
        for metric in [DURATION, REQUESTS, REJECTIONS, FAIL_OPEN] {
            page.describe(metric);
        }
        for ((call, result), count) in &admissions.results {
            let (code, rejection) = (result.code().to_string(), result.rejection());
            let labels = call.labels();
            let further = [("code", &*code), ("rejected", text(rejection.is_some()))];
            page.add(REQUESTS, &[&labels[..], &further].concat(), count);
            if let Some(error) = rejection {
                let further = [("error_type", error), ("rejection_code", &*code)];
                page.add(REJECTIONS, &[&labels[..], &further].concat(), count);
            }
        }
        for ((webhook, step), count) in admissions.failures_open() {
            page.add(FAIL_OPEN, &[("name", webhook), ("type", step)], count);
        }
        for ((call, is_rejected), durations) in &admissions.durations {
            let labels = [&call.labels()[..], &[("rejected", text(*is_rejected))]].concat();
            page.add_histogram(DURATION, &labels, durations);
        }
        for metric in [CONVERSION_REQUESTS, CONVERSION_DURATION] {
            page.describe(metric);
        }
        for (failure, durations) in &*lock(&self.conversions) {
            let result = match failure {
                None => "success",
                Some(_) => "failure",
            };
            let failure = failure.map_or("", ConversionFailure::name);
            let labels = [("result", result), ("failure_type", failure)];
            page.add(CONVERSION_REQUESTS, &labels, durations.count());
            page.add_histogram(CONVERSION_DURATION, &labels, durations);
        }
    }
}

fn text(is_true: bool) -> &'static str {
    match is_true {
        true => "true",
        false => "false",
    }
}

fn lock<T>(data: &Mutex<T>) -> MutexGuard<'_, T> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: usize) -> AdmissionCall {
        AdmissionCall {
            webhook: format!("w{number}.example.com"),
            is_mutating: true,
            operation: "CREATE",
        }
    }

    fn page(metrics: &WebhookMetrics) -> String {
        let mut page = Page::default();
        metrics.write(&mut page);
        page.text()
    }

    #[test]
    fn admissions_are_counted_by_result() {
        let metrics = WebhookMetrics::default();
        let took = Duration::from_millis(50);
        for result in [
            AdmissionResult::Allowed,
            AdmissionResult::Denied { code: 700 },
            AdmissionResult::Denied { code: 900 },
            AdmissionResult::FailedClosed { code: 503 },
            AdmissionResult::FailedOpen { code: 503 },
            AdmissionResult::ServerError,
        ] {
            metrics.admitted(call(0), result, took);
        }
        let page = page(&metrics);
        let of = "name=\"w0.example.com\",type=\"admit\",operation=\"CREATE\"";
        for line in [
            format!("webhook_request_total{{{of},code=\"200\",rejected=\"false\"}} 1"),
            format!("webhook_request_total{{{of},code=\"600\",rejected=\"true\"}} 2"),
            format!(
                "webhook_rejection_count{{{of},error_type=\"no_error\",rejection_code=\"600\"}} 2"
            ),
            format!(
                "webhook_rejection_count{{{of},error_type=\"calling_webhook_error\",rejection_code=\"503\"}} 1"
            ),
            format!(
                "webhook_rejection_count{{{of},error_type=\"apiserver_internal_error\",rejection_code=\"0\"}} 1"
            ),
            "webhook_fail_open_count{name=\"w0.example.com\",type=\"admit\"} 1".to_owned(),
            format!(
                "webhook_admission_duration_seconds_bucket{{{of},rejected=\"true\",le=\"0.025\"}} 0"
            ),
            format!("webhook_admission_duration_seconds_count{{{of},rejected=\"false\"}} 2"),
        ] {
            let line = format!("apiserver_admission_{line}\n");
            assert!(page.contains(&line), "{line} {page}");
        }
    }

    #[test]
    fn conversions_are_counted_by_failure() {
        let metrics = WebhookMetrics::default();
        let took = Duration::from_millis(3);
        metrics.converted(None, took);
        metrics.converted(None, took);
        metrics.converted(Some(ConversionFailure::NoObjects), took);
        let page = page(&metrics);
        let failure = "conversion_webhook_no_objects_returned_failure";
        for line in [
            "request_total{result=\"success\",failure_type=\"\"} 2".to_owned(),
            format!("request_total{{result=\"failure\",failure_type=\"{failure}\"}} 1"),
            "duration_seconds_count{result=\"success\",failure_type=\"\"} 2".to_owned(),
        ] {
            let line = format!("apiserver_conversion_webhook_{line}\n");
            assert!(page.contains(&line), "{line} {page}");
        }
    }

    #[test]
    fn the_number_of_label_sets_has_a_maximum() {
        let metrics = WebhookMetrics::default();
        for number in 0..SERIES_MAX + 100 {
            metrics.admitted(call(number), AdmissionResult::Allowed, Duration::ZERO);
        }
        metrics.admitted(call(0), AdmissionResult::Allowed, Duration::ZERO);
        let admissions = lock(&metrics.admissions);
        assert_eq!(admissions.results.len(), SERIES_MAX);
        assert_eq!(admissions.durations.len(), SERIES_MAX);
        assert_eq!(admissions.results[&(call(0), AdmissionResult::Allowed)], 2);
    }
}
