//! ValidatingAdmissionPolicies: their matching and their validations.

use std::collections::BTreeMap;
use std::time::Duration;

use custom_resources::{Expression, ExpressionError, Values};
use json_tree::{Value, json};
use object_model::{Cause, Status, StatusReason};
use resource_kinds::DecodeError;
use thiserror::Error;

use crate::binding::{BoundPolicy, ParameterSource};
use crate::environment::names;
use crate::error::ConfigurationError;
use crate::evaluation::{
    Clock, EnforcementAction, EvaluationFailure, EvaluationObserver, PolicyEvaluation,
};
use crate::expressions::{Condition, MatchResult, Variables, compile, conditions, met};
use crate::request::{Request, ResourceAndKind};

/// The key of the audit annotation of a violation (upstream's key).
const VALIDATION_FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";
/// Maximum length of the value of an audit annotation (upstream's value).
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;
/// Maximum length of a computed message; a longer message is replaced (upstream's value).
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// All validating policies with their bindings.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    bound: Vec<BoundPolicy<Rules>>,
}

/// The objects of a request in another version.
#[derive(Clone, Debug)]
pub struct AdmissionObjects {
    /// The new object; null for a deletion.
    pub object: Value,
    /// The old object; null for a creation.
    pub old: Value,
}

/// Returns the objects of a request in the version of the subject with this index.
pub type AsVersion<'a> = dyn Fn(usize) -> Result<AdmissionObjects, DecodeError> + 'a;

/// The expressions of a policy.
#[derive(Clone, Debug)]
struct Rules {
    conditions: Vec<Condition>,
    variables: Variables,
    validations: Vec<Validation>,
    annotations: Vec<Annotation>,
}

#[derive(Clone, Debug)]
struct Validation {
    source: String,
    expression: Expression,
    message: String,
    computed_message: Option<Expression>,
    reason: StatusReason,
}

/// An audit annotation of a policy.
#[derive(Clone, Debug)]
struct Annotation {
    key: String,
    source: String,
    expression: Expression,
}

/// The result of all policies for a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyJudgement {
    /// The refusal; `None` if the request is allowed.
    pub denied: Option<Status>,
    /// Warnings for the client, sent as `Warning` headers.
    pub warnings: Vec<String>,
    /// Annotations of the audit event: the keys and their values.
    pub annotations: Vec<(String, String)>,
}

/// A violation of a policy, or a failed evaluation.
struct Complaint {
    /// The index of the validation; 0 if no validation was evaluated.
    index: usize,
    message: String,
    cause: ComplaintCause,
}

#[derive(Clone, Copy)]
enum ComplaintCause {
    /// A false validation, with the reason of the refusal.
    Violation(StatusReason),
    Failure(EvaluationFailure),
}

/// A complaint, and the duration of the evaluation.
type TimedComplaint = (Complaint, Duration);

/// The result of one policy with one parameter object.
#[derive(Default)]
struct Findings {
    complaints: Vec<TimedComplaint>,
    /// Failed evaluations that the policy ignores.
    ignored: Vec<TimedComplaint>,
    /// The keys and values of audit annotations.
    annotations: Vec<(String, String)>,
    /// The errors of audit annotations, and the durations of their evaluation.
    failed_annotations: Vec<(AnnotationError, Duration)>,
}

impl Findings {
    /// Adds a complaint. Failed evaluations count only with `failurePolicy: Fail`.
    fn add(&mut self, complaint: TimedComplaint, may_fail: bool) {
        match complaint.0.cause {
            ComplaintCause::Failure(_) if may_fail => self.ignored.push(complaint),
            _ => self.complaints.push(complaint),
        }
    }
}

/// The values of audit annotations by policy and key. Several bindings and parameters may have several values.
type AnnotationValues<'p> = BTreeMap<(&'p str, String), Vec<String>>;

impl Policies {
    /// The policies with their bindings; a policy without a binding is not in the list.
    pub fn new(policies: &[Value], bindings: &[Value]) -> Self {
        Self {
            bound: BoundPolicy::all(policies, bindings, Rules::read),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    /// Evaluates the policies for a request. The first subject is the resource of the request; the other subjects are
    /// its other versions.
    pub fn judge(
        &self,
        request: &Request<'_>,
        subjects: &[ResourceAndKind<'_>],
        converted_to: &AsVersion<'_>,
        cluster: &ParameterSource<'_>,
        observer: &dyn EvaluationObserver,
    ) -> PolicyJudgement {
        let mut judgement = PolicyJudgement::default();
        let mut values = AnnotationValues::new();
        for bound in &self.bound {
            let clock = &|| observer.now();
            match bound.findings(request, subjects, converted_to, cluster, clock) {
                Ok(all) => {
                    for findings in all {
                        bound.observe(&findings, observer);
                        bound.act(request, findings, &mut judgement, &mut values);
                    }
                }
                Err(_) if bound.may_fail() => {}
                Err(error) => {
                    let message = error.to_string();
                    let text = match error {
                        ConfigurationError::Policy(_) => {
                            let policy = &bound.policy;
                            format!(
                                "ValidatingAdmissionPolicy '{policy}' denied request: {message}"
                            )
                        }
                        ConfigurationError::Binding(_) => bound.denial(&message),
                    };
                    judgement.deny(request, text, StatusReason::Invalid);
                }
            }
        }
        for ((policy, key), values) in values {
            let annotation = (format!("{policy}/{key}"), values.join(", "));
            judgement.annotations.push(annotation);
        }
        judgement
    }
}

impl PolicyJudgement {
    /// Refuses the request; the first refusal stays.
    fn deny(&mut self, request: &Request<'_>, text: String, reason: StatusReason) {
        if self.denied.is_none() {
            self.denied = Some(denied(request, text, reason));
        }
    }
}

impl Rules {
    fn read(spec: &Value) -> Result<Self, ExpressionError> {
        let params = spec["paramKind"].is_object();
        let all = names(params, true);
        let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let validations = list("validations");
        let validations = validations.iter().map(|validation| {
            let message = text(&validation["message"]).trim().to_owned();
            let message_expression = &validation["messageExpression"];
            Ok(Validation {
                source: text(&validation["expression"]),
                expression: compile(&validation["expression"], &all)?,
                message: if message.is_empty() {
                    format!(
                        "failed expression: {}",
                        text(&validation["expression"]).trim()
                    )
                } else {
                    message
                },
                computed_message: message_expression
                    .is_string()
                    .then(|| compile(message_expression, &all))
                    .transpose()?,
                reason: reason(&validation["reason"]),
            })
        });
        let annotations = list("auditAnnotations");
        let annotations = annotations.iter().map(|annotation| {
            Ok(Annotation {
                key: text(&annotation["key"]),
                source: text(&annotation["valueExpression"]),
                expression: compile(&annotation["valueExpression"], &all)?,
            })
        });
        Ok(Self {
            conditions: conditions(&spec["matchConditions"], params)?,
            variables: Variables::read(&spec["variables"], &all)?,
            validations: validations.collect::<Result<_, ExpressionError>>()?,
            annotations: annotations.collect::<Result<_, ExpressionError>>()?,
        })
    }

    /// The violations and annotations with one parameter object, or without parameters.
    fn findings(&self, mut values: Values, may_fail: bool, clock: &Clock<'_>) -> Findings {
        let mut findings = Findings::default();
        let begin = clock();
        match met(&self.conditions, &values) {
            MatchResult::Yes => {}
            MatchResult::No => return findings,
            MatchResult::Unknown(error) => {
                let failure = EvaluationFailure::of_rule(&error);
                let complaint = Complaint::failure(0, error.to_string(), failure);
                findings.add((complaint, clock().saturating_sub(begin)), may_fail);
                return findings;
            }
        }
        self.variables.add_to(&mut values);
        for (index, validation) in self.validations.iter().enumerate() {
            let begin = clock();
            if let Some(complaint) = validation.judge(index, &values) {
                findings.add((complaint, clock().saturating_sub(begin)), may_fail);
            }
        }
        for annotation in &self.annotations {
            let begin = clock();
            match annotation.value(&values) {
                Ok(Some(value)) => findings.annotations.push((annotation.key.clone(), value)),
                Ok(None) => {}
                Err(AnnotationError::Evaluation(_)) if may_fail => {}
                Err(error) => {
                    let took = clock().saturating_sub(begin);
                    findings.failed_annotations.push((error, took));
                }
            }
        }
        findings
    }
}

impl Validation {
    fn judge(&self, index: usize, values: &Values) -> Option<Complaint> {
        match self
            .expression
            .evaluate(values)
            .map(|result| result.as_bool())
        {
            Ok(Some(true)) => None,
            Ok(Some(false)) => Some(Complaint {
                index,
                message: self.message(values),
                cause: ComplaintCause::Violation(self.reason),
            }),
            Ok(None) => Some(Complaint::failure(
                index,
                "cel expression resulted in other than a bool".to_owned(),
                EvaluationFailure::Invalid,
            )),
            Err(error) => {
                let source = &self.source;
                let text = format!("expression '{source}' resulted in error: {error}");
                let failure = EvaluationFailure::of_expression(&error);
                Some(Complaint::failure(index, text, failure))
            }
        }
    }

    fn message(&self, values: &Values) -> String {
        let message = self
            .computed_message
            .as_ref()
            .and_then(|expression| expression.evaluate(values).ok());
        let message = message
            .as_ref()
            .and_then(|result| result.as_text())
            .map(str::trim);
        let is_usable = |text: &&str| {
            !text.is_empty() && !text.contains('\n') && text.len() <= MESSAGE_BYTES_MAX
        };
        message
            .filter(is_usable)
            .unwrap_or(&self.message)
            .to_owned()
    }
}

/// The reason why an audit annotation has no value.
#[derive(Debug, Error)]
enum AnnotationError {
    #[error("{0}")]
    Evaluation(ExpressionError),
    #[error(
        "valueExpression '{0}' resulted in unsupported return type. Return type must be either string or null."
    )]
    Type(String),
}

impl AnnotationError {
    fn failure(&self) -> EvaluationFailure {
        match self {
            Self::Evaluation(error) => EvaluationFailure::of_expression(error),
            Self::Type(_) => EvaluationFailure::Invalid,
        }
    }
}

impl Annotation {
    /// The value; `None` for null and for an empty text.
    fn value(&self, values: &Values) -> Result<Option<String>, AnnotationError> {
        let result = self.expression.evaluate(values);
        let result = result.map_err(AnnotationError::Evaluation)?;
        if result.is_null() {
            return Ok(None);
        }
        let text = result.as_text();
        let text = text.ok_or_else(|| AnnotationError::Type(self.source.clone()))?;
        let mut end = text.trim().len().min(ANNOTATION_BYTES_MAX);
        while !text.trim().is_char_boundary(end) {
            end -= 1;
        }
        let value = text.trim().get(..end).unwrap_or_default();
        Ok((!value.is_empty()).then(|| value.to_owned()))
    }
}

impl Complaint {
    /// A failed evaluation.
    fn failure(index: usize, message: String, failure: EvaluationFailure) -> Self {
        Self {
            index,
            message,
            cause: ComplaintCause::Failure(failure),
        }
    }

    fn failed(&self) -> Option<EvaluationFailure> {
        match self.cause {
            ComplaintCause::Violation(_) => None,
            ComplaintCause::Failure(failure) => Some(failure),
        }
    }
}

impl BoundPolicy<Rules> {
    /// The findings with each parameter object; empty if the policy does not apply.
    fn findings(
        &self,
        request: &Request<'_>,
        subjects: &[ResourceAndKind<'_>],
        converted_to: &AsVersion<'_>,
        cluster: &ParameterSource<'_>,
        clock: &Clock<'_>,
    ) -> Result<Vec<Findings>, ConfigurationError> {
        let Some(index) = self.match_request(request, subjects)? else {
            return Ok(Vec::new());
        };
        let rules = self.rules()?;
        let of_request = match subjects.get(index).filter(|_| index > 0) {
            None => request.values(),
            Some(subject) => {
                let converted = converted_to(index);
                let AdmissionObjects { object, old } =
                    converted.map_err(|error| ConfigurationError::Policy(error.into()))?;
                let converted = Request {
                    subject: *subject,
                    object: &object,
                    old: &old,
                    ..request.clone()
                };
                converted.values()
            }
        };
        let settings = self.settings(request, cluster)?;
        let findings = settings.iter().map(|settings| {
            let mut values = of_request.clone();
            values.add("params", settings);
            rules.findings(values, self.may_fail(), clock)
        });
        Ok(findings.collect())
    }

    /// Reports each evaluation with an effect: once for each action of a complaint, and for each ignored failure.
    fn observe(&self, findings: &Findings, observer: &dyn EvaluationObserver) {
        let report = |failure, action, took| {
            observer.validated(&PolicyEvaluation {
                policy: &self.policy,
                binding: &self.binding,
                failure,
                action,
                took,
            });
        };
        for (complaint, took) in &findings.complaints {
            for action in crate::matching::texts(&self.bound["validationActions"]) {
                let action = match action {
                    "Warn" => EnforcementAction::Warn,
                    "Audit" => EnforcementAction::Audit,
                    _ => EnforcementAction::Deny,
                };
                report(complaint.failed(), action, *took);
            }
        }
        for (complaint, took) in &findings.ignored {
            report(complaint.failed(), EnforcementAction::Allow, *took);
        }
        for (error, took) in &findings.failed_annotations {
            report(Some(error.failure()), EnforcementAction::Deny, *took);
        }
    }

    /// Applies the binding's `validationActions` to the violations, and collects the annotations.
    fn act<'p>(
        &'p self,
        request: &Request<'_>,
        findings: Findings,
        judgement: &mut PolicyJudgement,
        values: &mut AnnotationValues<'p>,
    ) {
        let (policy, binding) = (&self.policy, &self.binding);
        let actions = &self.bound["validationActions"];
        for (complaint, _) in &findings.complaints {
            let message = &complaint.message;
            for action in crate::matching::texts(actions) {
                match action {
                    "Warn" => judgement.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding \
                         '{binding}': {message}"
                    )),
                    "Audit" => {
                        let failure = json!([{
                            "message": message,
                            "policy": policy,
                            "binding": binding,
                            "expressionIndex": complaint.index,
                            "validationActions": actions,
                        }]);
                        let annotation = (VALIDATION_FAILURE.to_owned(), failure.to_string());
                        judgement.annotations.push(annotation);
                    }
                    _ => {
                        let reason = match complaint.cause {
                            ComplaintCause::Violation(reason) => reason,
                            ComplaintCause::Failure(_) => StatusReason::Invalid,
                        };
                        judgement.deny(request, self.denial(message), reason);
                    }
                }
            }
        }
        for (key, value) in findings.annotations {
            let values = values.entry((policy, key)).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        // As upstream, an annotation that has no value refuses the request whatever the actions are.
        for (error, _) in findings.failed_annotations {
            let message = self.denial(&error.to_string());
            judgement.deny(request, message, StatusReason::Invalid);
        }
    }

    fn denial(&self, message: &str) -> String {
        let (policy, binding) = (&self.policy, &self.binding);
        format!(
            "ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}"
        )
    }
}

/// The reason of a refusal from the field `reason` of a validation.
fn reason(word: &Value) -> StatusReason {
    match word.as_str() {
        Some("Unauthorized") => StatusReason::Unauthorized,
        Some("Forbidden") => StatusReason::Forbidden,
        Some("RequestEntityTooLarge") => StatusReason::RequestEntityTooLarge,
        _ => StatusReason::Invalid,
    }
}

fn denied(request: &Request<'_>, text: String, reason: StatusReason) -> Status {
    let target = &request.subject.target;
    let mut status = Status::forbidden(target.group, target.plural, request.name, &text);
    status.reason = reason;
    status.code = reason.code();
    status.with_cause(Cause {
        message: text,
        ..Cause::default()
    })
}

#[cfg(test)]
mod tests;
