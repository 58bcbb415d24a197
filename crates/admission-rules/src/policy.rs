//! ValidatingAdmissionPolicies: their matching and their validations.

use custom_resources::{Expression, ExpressionError, Values};
use json_tree::Value;
use object_model::{Cause, Status, StatusReason};
use resource_kinds::DecodeError;

use crate::binding::{BoundPolicy, ParameterSource};
use crate::error::RuleError;
use crate::expressions::{Condition, MatchResult, Variables, compile, conditions, met, names};
use crate::request::{Request, ResourceAndKind};

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
}

#[derive(Clone, Debug)]
struct Validation {
    expression: Expression,
    message: String,
    computed_message: Option<Expression>,
    reason: StatusReason,
}

/// The result of all policies for a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyJudgement {
    /// The refusal; `None` if the request is allowed.
    pub denied: Option<Status>,
    /// Warnings for the client, sent as `Warning` headers.
    pub warnings: Vec<String>,
    /// Annotations for the audit log.
    pub audited: Vec<String>,
}

/// A violation of a policy, or a failed evaluation.
struct Complaint {
    message: String,
    /// The reason of the refusal; `None` for an evaluation error.
    reason: Option<StatusReason>,
}

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
    ) -> PolicyJudgement {
        let mut judgement = PolicyJudgement::default();
        for bound in &self.bound {
            let complaints = bound.complaints(request, subjects, converted_to, cluster);
            for complaint in complaints {
                bound.act(request, &complaint, &mut judgement);
            }
        }
        judgement
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
        Ok(Self {
            conditions: conditions(&spec["matchConditions"], params)?,
            variables: Variables::read(&spec["variables"], &all)?,
            validations: validations.collect::<Result<_, ExpressionError>>()?,
        })
    }

    /// All violations with one parameter object, or without parameters.
    fn broken(&self, mut values: Values) -> Vec<Complaint> {
        self.variables.add_to(&mut values);
        let validations = self.validations.iter();
        validations
            .filter_map(|validation| validation.judge(&values))
            .collect()
    }
}

impl Validation {
    fn judge(&self, values: &Values) -> Option<Complaint> {
        match self
            .expression
            .evaluate(values)
            .map(|result| result.as_bool())
        {
            Ok(Some(true)) => None,
            Ok(Some(false)) => Some(self.complaint(values)),
            Ok(None) => Some(Complaint::failure(
                "cel expression resulted in other than a bool".to_owned(),
            )),
            Err(error) => Some(Complaint::failure(format!(
                "expression resulted in error: {error}"
            ))),
        }
    }

    fn complaint(&self, values: &Values) -> Complaint {
        let message = self
            .computed_message
            .as_ref()
            .and_then(|expression| expression.evaluate(values).ok());
        let message = message
            .as_ref()
            .and_then(|result| result.as_text())
            .map(str::trim);
        let message = message.filter(|text| !text.is_empty() && !text.contains('\n'));
        Complaint {
            message: message.unwrap_or(&self.message).to_owned(),
            reason: Some(self.reason),
        }
    }
}

impl Complaint {
    /// A failed evaluation.
    fn failure(message: String) -> Self {
        Self {
            message,
            reason: None,
        }
    }
}

impl BoundPolicy<Rules> {
    fn complaints(
        &self,
        request: &Request<'_>,
        subjects: &[ResourceAndKind<'_>],
        converted_to: &AsVersion<'_>,
        cluster: &ParameterSource<'_>,
    ) -> Vec<Complaint> {
        let result = self.judged(request, subjects, converted_to, cluster);
        let mut complaints =
            result.unwrap_or_else(|error| vec![Complaint::failure(error.to_string())]);
        // Evaluation errors count only with `failurePolicy: Fail`.
        if self.may_fail() {
            complaints.retain(|complaint| complaint.reason.is_some());
        }
        complaints
    }

    fn judged(
        &self,
        request: &Request<'_>,
        subjects: &[ResourceAndKind<'_>],
        converted_to: &AsVersion<'_>,
        cluster: &ParameterSource<'_>,
    ) -> Result<Vec<Complaint>, RuleError> {
        let Some(index) = self.match_request(request, subjects)? else {
            return Ok(Vec::new());
        };
        let rules = self.rules.as_ref().map_err(Clone::clone)?;
        let of_request = match subjects.get(index).filter(|_| index > 0) {
            None => request.values(),
            Some(subject) => {
                let AdmissionObjects { object, old } = converted_to(index)?;
                let converted = Request {
                    subject: *subject,
                    object: &object,
                    old: &old,
                    ..request.clone()
                };
                converted.values()
            }
        };
        let mut complaints = Vec::new();
        for settings in self.settings(request, cluster)? {
            let mut values = of_request.clone();
            values.add("params", &settings);
            match met(&rules.conditions, &values) {
                MatchResult::Yes => {}
                MatchResult::No => continue,
                MatchResult::Unknown(why) => return Err(why),
            }
            complaints.extend(rules.broken(values));
        }
        Ok(complaints)
    }

    /// Applies the binding's `validationActions` to a violation.
    fn act(&self, request: &Request<'_>, complaint: &Complaint, judgement: &mut PolicyJudgement) {
        let (policy, binding) = (&self.policy, &self.binding);
        let message = &complaint.message;
        let actions = crate::matching::texts(&self.bound["validationActions"]);
        for action in actions {
            match action {
                "Warn" => judgement.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding \
                     '{binding}': {message}"
                )),
                "Audit" => judgement
                    .audited
                    .push(format!("{policy}/{binding}: {message}")),
                _ if judgement.denied.is_none() => {
                    let text = format!(
                        "ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied \
                         request: {message}"
                    );
                    let reason = complaint.reason.unwrap_or(StatusReason::Invalid);
                    judgement.denied = Some(denied(request, text, reason));
                }
                _ => {}
            }
        }
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
